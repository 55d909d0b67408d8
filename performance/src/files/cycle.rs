//! Measures acquire and release of an uncontended lock file.

use std::{
    fs,
    hint::black_box,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use lock_core::{Locker, Mode, TryAcquire};
use lock_efs::FileBackend;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tokio::runtime::Runtime;

use super::{directory, means, open};
use crate::{
    effort::Effort,
    flavor::Flavor,
    peers::Process,
    table::{FOUR_PERMITS, Table, micros},
    turns,
};

const ROUNDS: usize = 60;
/// The number of cycles in a block.
const CYCLES: usize = 200;

enum Contestant {
    /// Opens a file, locks it, and closes it.
    Raw(PathBuf),
    SamePromises(PathBuf, Vec<u8>),
    /// With the name of the lock.
    Locker(Locker, &'static str),
    Peer(Process),
}

impl Contestant {
    fn all(dir: &Path) -> Vec<(&'static str, Self)> {
        let path = |name: &str| dir.join(name).to_str().expect("a temporary directory").to_owned();
        let backend = Arc::new(FileBackend::open(dir).expect("a directory of ours"));
        let locker = |mode, name| {
            let locker = Locker::builder(backend.clone()).mode(mode).build().expect("the store has the mode");
            Self::Locker(locker, name)
        };
        vec![
            ("raw flock", Self::Raw(dir.join("plain.lock"))),
            ("raw, same promises", Self::SamePromises(dir.to_owned(), vec![b'x'; 250])),
            ("onelock", locker(Mode::Exclusive, "exclusive")),
            ("onelock, shared", locker(Mode::Shared, "shared")),
            ("onelock, one of 4 permits", locker(FOUR_PERMITS, "permits")),
            ("filelock", Self::Peer(Process::python("filelock", &path("filelock")))),
            ("fasteners", Self::Peer(Process::python("fasteners", &path("fasteners")))),
        ]
    }

    async fn cycle(&self) {
        match self {
            Self::Raw(path) => open(path).lock().expect("no other process locks the file"),
            Self::SamePromises(dir, record) => same_promises(dir, record),
            Self::Locker(locker, name) => {
                let Ok(TryAcquire::Acquired(guard)) = locker.try_acquire(*name).await else { panic!("it is free") };
                let _ = guard.release().await.expect("it is held");
            }
            Self::Peer(_) => unreachable!("another process runs the block"),
        }
    }

    fn block(self, runtime: &Runtime) -> (Self, Vec<f64>) {
        if let Self::Peer(mut process) = self {
            process.tell(&format!("cycles {CYCLES}"));
            let times = process.numbers().into_iter().map(|nanos| nanos / 1e3).collect();
            return (Self::Peer(process), times);
        }
        let task = async move {
            let mut times = Vec::with_capacity(CYCLES);
            for _ in 0..CYCLES {
                let start = Instant::now();
                self.cycle().await;
                times.push(micros(start.elapsed()));
            }
            (self, times)
        };
        runtime.block_on(async { tokio::spawn(task).await.expect("no cycle fails") })
    }
}

/// Makes the system calls that the guarantees require. It locks the file and checks that the name
/// still means it, replaces a record with a token atomically, and marks the record as released.
fn same_promises(dir: &Path, record: &[u8]) {
    let (lock, info, spare) = (dir.join("raw.lock"), dir.join("raw.info"), dir.join("raw.prev"));
    let file = open(&lock);
    file.lock().expect("no other process locks the file");
    assert!(means(&lock, &file));
    black_box(fs::read(&info).unwrap_or_default());
    let sidecar = open(&spare);
    sidecar.write_all_at(record, 0).expect("there is space");
    if renameat2(AT_FDCWD, &spare, AT_FDCWD, &info, RenameFlags::RENAME_EXCHANGE).is_err() {
        fs::rename(&spare, &info).expect("the directory is ours");
    }
    sidecar.write_all_at(b"onelock/1 released", 0).expect("there is space");
    file.unlock().expect("it is locked");
}

pub(crate) fn run(effort: Effort) -> Vec<Table> {
    Flavor::ALL.map(|flavor| on(flavor, effort)).into()
}

fn on(flavor: Flavor, effort: Effort) -> Table {
    let dir = directory();
    let runtime = flavor.runtime();
    let (names, mut contestants): (Vec<_>, Vec<_>) =
        Contestant::all(dir.path()).into_iter().map(|(name, one)| (name, Some(one))).unzip();
    let blocks = turns::take(names.len(), effort.rounds(ROUNDS), |next| {
        let (contestant, times) = contestants[next].take().expect("it came back").block(&runtime);
        contestants[next] = Some(contestant);
        times
    });
    turns::table(format!("File cycle, {}", flavor.name()), &names, &blocks)
}
