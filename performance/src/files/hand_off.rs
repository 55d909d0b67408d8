//! Measures the time from a release until a waiting process has the lock file.

use std::{fs::File, path::Path};

use lock_core::{Guard, Locker};
use lock_efs::FileBackend;

use super::{directory, open};
use crate::{
    effort::Effort,
    flavor::Flavor,
    hand_off::{self, Lock, Pair, ROUNDS},
    peers::Process,
    table::{Table, figure, median, percentile},
};

/// Fewer rounds for clients that poll.
const ROUNDS_OF_POLLERS: usize = 40;

enum FileLock {
    /// Blocks in the kernel, which a program that has other work to do cannot.
    Raw(Box<Path>),
    Onelock(Locker),
}

enum Held {
    Raw(File),
    Onelock(Guard),
}

/// The waiting process.
pub(crate) fn wait(how: &str, dir: &Path, flavor: Flavor) {
    hand_off::wait(&flavor.runtime(), FileLock::new(how, dir));
}

impl FileLock {
    fn new(how: &str, dir: &Path) -> Self {
        if how == "raw" {
            return Self::Raw(dir.join("raw.lock").into());
        }
        Self::Onelock(Locker::new(FileBackend::open(dir).expect("a directory of ours")).expect("defaults"))
    }
}

impl Lock for FileLock {
    type Held = Held;

    async fn acquire(&mut self) -> Held {
        match self {
            Self::Raw(path) => {
                let file = open(path);
                file.lock().expect("it becomes free");
                Held::Raw(file)
            }
            Self::Onelock(locker) => Held::Onelock(locker.acquire("onelock").await.expect("it becomes free")),
        }
    }

    async fn release(&mut self, held: Held) {
        match held {
            Held::Raw(file) => drop(file),
            Held::Onelock(guard) => drop(guard.release().await.expect("it is held")),
        }
    }
}

pub(crate) fn run(effort: Effort) -> Vec<Table> {
    Flavor::ALL.map(|flavor| on(flavor, effort)).into()
}

fn on(flavor: Flavor, effort: Effort) -> Table {
    let dir = directory();
    let runtime = flavor.runtime();
    let place = dir.path().to_str().expect("a temporary directory");
    let own = |how: &str| {
        Pair::new(FileLock::new(how, dir.path()), Process::own(["wait", "files", how, place, flavor.name()]))
    };
    let [mut raw, mut onelock] = [own("raw"), own("onelock")];
    let (mut raw_times, mut times) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds(ROUNDS) {
        raw_times.push(raw.once(&runtime));
        times.push(onelock.once(&runtime));
    }
    let mut all = vec![("raw flock", raw_times), ("onelock", times)];
    for library in ["filelock", "fasteners"] {
        let mut pair = Pair::<FileLock>::of_peers(|| Process::python(library, &format!("{place}/{library}")));
        all.push((library, (0..effort.rounds(ROUNDS_OF_POLLERS)).map(|_| pair.once(&runtime)).collect()));
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
