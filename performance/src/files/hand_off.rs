//! Measures the time from a release until a waiting process has the lock file.

use std::{fs::File, io::BufRead as _, path::Path, time::Duration};

use lock_core::{Guard, Locker};
use lock_efs::FileBackend;
use test_support::monotonic_nanos;
use tokio::runtime::Runtime;

use super::{directory, open};
use crate::{
    effort::Effort,
    flavor::Flavor,
    peers::Process,
    table::{Table, figure, median, percentile},
};

const ROUNDS: usize = 150;
/// Fewer rounds for clients that poll.
const ROUNDS_OF_POLLERS: usize = 40;
/// Sleeps until the other process waits.
const UNTIL_IT_WAITS: Duration = Duration::from_millis(15);

enum Holder {
    /// Blocks in the kernel, which a program that has other work to do cannot.
    Raw(Box<Path>),
    Onelock(Locker),
    Peer(Process),
}

enum Held {
    Raw(File),
    Onelock(Guard),
    /// The other process knows it.
    Known,
}

/// The waiting process. Each line on its input begins a wait, and the answer is the time at which
/// the process acquired the lock.
pub(crate) fn wait(how: &str, dir: &Path, flavor: Flavor) {
    let runtime = flavor.runtime();
    let mut holder = Holder::new(how, dir);
    for line in std::io::stdin().lock().lines() {
        line.expect("the parent writes");
        runtime.block_on(async {
            let held = holder.acquire().await;
            println!("{}", monotonic_nanos());
            holder.release(held).await;
        });
    }
}

impl Holder {
    fn new(how: &str, dir: &Path) -> Self {
        if how == "raw" {
            return Self::Raw(dir.join("raw.lock").into());
        }
        Self::Onelock(Locker::new(FileBackend::open(dir).expect("a directory of ours")).expect("defaults"))
    }

    async fn acquire(&mut self) -> Held {
        match self {
            Self::Raw(path) => {
                let file = open(path);
                file.lock().expect("it becomes free");
                Held::Raw(file)
            }
            Self::Onelock(locker) => Held::Onelock(locker.acquire("onelock").await.expect("it becomes free")),
            Self::Peer(process) => {
                assert_eq!(process.ask("hold"), "held");
                Held::Known
            }
        }
    }

    /// Returns the time just before the release.
    async fn release(&mut self, held: Held) -> i64 {
        let before = monotonic_nanos();
        match (self, held) {
            (_, Held::Raw(file)) => drop(file),
            (_, Held::Onelock(guard)) => drop(guard.release().await.expect("it is held")),
            (Self::Peer(process), Held::Known) => {
                process.tell("release");
                return process.nanos();
            }
            _ => unreachable!("each holder releases what it acquired"),
        }
        before
    }
}

fn once(runtime: &Runtime, holder: &mut Holder, waiter: &mut Process) -> f64 {
    let held = runtime.block_on(holder.acquire());
    waiter.tell("wait");
    std::thread::sleep(UNTIL_IT_WAITS);
    let released = runtime.block_on(holder.release(held));
    (waiter.nanos() - released) as f64 / 1e3
}

pub(crate) fn run(effort: Effort) -> Vec<Table> {
    Flavor::ALL.map(|flavor| on(flavor, effort)).into()
}

fn on(flavor: Flavor, effort: Effort) -> Table {
    let dir = directory();
    let runtime = flavor.runtime();
    let place = dir.path().to_str().expect("a temporary directory");
    let own = |how: &str| (Holder::new(how, dir.path()), Process::own(["wait", "files", how, place, flavor.name()]));
    let python = |library: &str| {
        let path = format!("{place}/{library}");
        (Holder::Peer(Process::python(library, &path)), Process::python(library, &path))
    };
    let [mut raw, mut onelock] = [own("raw"), own("onelock")];
    let (mut raw_times, mut times) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds(ROUNDS) {
        raw_times.push(once(&runtime, &mut raw.0, &mut raw.1));
        times.push(once(&runtime, &mut onelock.0, &mut onelock.1));
    }
    let mut all = vec![("raw flock", raw_times), ("onelock", times)];
    for library in ["filelock", "fasteners"] {
        let (mut holder, mut waiter) = python(library);
        let rounds = effort.rounds(ROUNDS_OF_POLLERS);
        all.push((library, (0..rounds).map(|_| once(&runtime, &mut holder, &mut waiter)).collect()));
    }
    let raw = median(&all[0].1);
    let columns = ["median, µs", "99th percentile, µs", "relative to raw"];
    let mut table = Table::new(format!("File hand-off, {}", flavor.name()), &columns);
    for (name, times) in all {
        let middle = median(&times);
        table.row(name, [middle, percentile(&times, 99), middle / raw].map(figure));
    }
    table
}
