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
    crowd::{Contest, Crowd},
    effort::Effort,
    flavor::Flavor,
    peers::Process,
    table::{Table, micros},
};

const NAMES: [&str; 3] = ["raw flock", "onelock", "onelock, fair"];
/// Libraries of Python, which has no such runtime.
const PYTHON: [&str; 2] = ["filelock", "fasteners"];
const PROCESSES: [usize; 4] = [1, 4, 16, 64];
/// How long a crowd of waiters contends.
const WINDOW: Duration = Duration::from_millis(300);

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
            let waited = match self {
                Self::Raw(dir) => {
                    let file = open(&dir.join(name));
                    file.lock().expect("it becomes free");
                    start.elapsed()
                }
                Self::Onelock(locker) => {
                    let Ok(guard) = timeout(left, locker.acquire(name)).await else { break };
                    let waited = start.elapsed();
                    let _ = guard.expect("it becomes free").release().await.expect("it is held");
                    waited
                }
            };
            // The kernel does not end a wait with the window.
            if start + waited < end {
                waits.push(micros(waited));
            }
        }
        waits
    }
}

pub(crate) fn run(effort: Effort) -> Vec<Table> {
    Flavor::ALL.into_iter().flat_map(|flavor| on(flavor, effort)).collect()
}

fn on(flavor: Flavor, effort: Effort) -> Vec<Table> {
    let dir = directory();
    let place = dir.path().to_str().expect("a temporary directory");
    let names = match flavor {
        Flavor::CurrentThread => [&NAMES[..], &PYTHON].concat(),
        Flavor::TwoWorkers => NAMES.to_vec(),
    };
    let contest = Contest {
        title: format!("Waiters for a file in a process each{}", flavor.suffix()),
        names: &names,
        python: &PYTHON,
        sizes: &PROCESSES,
        window: effort.window(WINDOW),
    };
    let start = |how, processes| {
        let member = |_| {
            if PYTHON.contains(&how) {
                Process::python(how, &format!("{place}/{how}-"))
            } else {
                Process::own(["contend", "files", how, place, flavor.name()])
            }
        };
        Crowd::of((0..processes).map(member).collect(), 1)
    };
    contest.tables(start, None)
}
