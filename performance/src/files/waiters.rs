//! Measures many processes that wait for one lock file.

use std::{
    io::BufRead as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use lock_core::Locker;
use lock_efs::FileBackend;
use tokio::time::timeout;

use super::{directory, open};
use crate::{
    effort::Effort,
    flavor::Flavor,
    peers::Process,
    redis::crowd::{Crowd, Outcome, fresh_name},
    table::{Table, figure, median, micros, percentile},
};

const NAMES: [&str; 3] = ["raw flock", "onelock", "onelock, fair"];
const PROCESSES: [usize; 4] = [1, 4, 16, 64];
/// How long a crowd of waiters contends, and how often.
const WINDOW: Duration = Duration::from_millis(300);
const WINDOWS: usize = 3;

/// How a process locks.
enum Way {
    /// Blocks in the kernel, which a program that has other work to do cannot.
    Raw(PathBuf),
    Onelock(Locker),
}

/// Answers each line `contend NAME SECONDS 1` with whether it never acquired, and the microseconds
/// of each acquisition.
pub(crate) fn contend(how: &str, dir: &Path, flavor: Flavor) {
    let runtime = flavor.runtime();
    let locker = |fair| {
        let backend = FileBackend::open(dir).expect("a directory of ours");
        Locker::builder(Arc::new(backend)).fair(fair).build().expect("the store has the capability")
    };
    let way = match how {
        "raw flock" => Way::Raw(dir.into()),
        "onelock" => Way::Onelock(locker(false)),
        _ => Way::Onelock(locker(true)),
    };
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("the parent writes");
        let [_, name, seconds, _] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("unknown: {line}") };
        let window = Duration::from_secs_f64(seconds.parse().expect("seconds"));
        // Each process has its own lock while all of them start.
        let name = if name == "-" { format!("own-{}", std::process::id()) } else { name.to_owned() };
        let waits = runtime.block_on(way.wait(&name, window));
        let starved = u8::from(waits.is_empty());
        println!("{starved}{}", waits.iter().map(|wait| format!(" {wait:.1}")).collect::<String>());
    }
}

impl Way {
    /// Acquires and releases for that time, and returns the microseconds of each wait.
    async fn wait(&self, name: &str, window: Duration) -> Vec<f64> {
        let (mut waits, end) = (Vec::new(), Instant::now() + window);
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let start = Instant::now();
            match self {
                Self::Raw(dir) => {
                    let file = open(&dir.join(name));
                    file.lock().expect("it becomes free");
                    waits.push(micros(start.elapsed()));
                }
                Self::Onelock(locker) => {
                    let Ok(guard) = timeout(left, locker.acquire(name)).await else { break };
                    waits.push(micros(start.elapsed()));
                    let _ = guard.expect("it becomes free").release().await.expect("it is held");
                }
            }
        }
        waits
    }
}

pub(crate) fn run(effort: Effort) -> Vec<Table> {
    let dir = directory();
    let place = dir.path().to_str().expect("a temporary directory");
    let flavor = Flavor::CurrentThread;
    let mut rows = NAMES.map(|_| [const { Vec::new() }; 3]);
    for processes in PROCESSES {
        let start = |how: &str| Process::own(["contend", "files", how, place, flavor.name()]);
        let mut crowds = NAMES.map(|how| Crowd::of((0..processes).map(|_| start(how)).collect(), 1));
        let mut outcomes = NAMES.map(|_| Vec::new());
        for _ in 0..WINDOWS {
            for (crowd, outcomes) in crowds.iter_mut().zip(&mut outcomes) {
                outcomes.push(crowd.work(Some(&fresh_name()), effort.window(WINDOW)));
            }
        }
        for (rows, outcomes) in rows.iter_mut().zip(&outcomes) {
            for (row, cell) in rows.iter_mut().zip(cells(outcomes)) {
                row.push(cell);
            }
        }
    }
    let titles = ["acquisitions a second", "99th percentile of a wait, ms", "never acquired"];
    let table = |(column, what): (usize, &str)| {
        let title = format!("Waiters for a file in a process each: {what}");
        let mut table = Table::new(title, &PROCESSES.map(|size| size.to_string()));
        for (name, rows) in NAMES.iter().zip(&rows) {
            table.row(*name, rows[column].clone());
        }
        table
    };
    titles.into_iter().enumerate().map(table).collect()
}

fn cells(outcomes: &[Outcome]) -> [String; 3] {
    let of = |figure: fn(&Outcome) -> f64| median(&outcomes.iter().map(figure).collect::<Vec<_>>());
    let waits: Vec<f64> = outcomes.iter().flat_map(|outcome| outcome.waits.iter().copied()).collect();
    let late = if waits.is_empty() { "–".into() } else { figure(percentile(&waits, 99) / 1e3) };
    [figure(of(Outcome::rate)), late, format!("{:.0}", of(|outcome| outcome.starved))]
}
