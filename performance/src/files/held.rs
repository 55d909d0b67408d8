//! Measures the cost of holding many lock files. They have no ttl, but a holder checks that each
//! name still means the locked file.

use std::{fs::File, path::Path, thread, time::Duration};

use lock_core::Locker;
use lock_efs::FileBackend;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use tempfile::TempDir;

use super::{directory, means, open};
use crate::{
    effort::Effort,
    flavor::Flavor,
    held::{Holder, Raw, WINDOW, key},
    table::{Table, figure},
};

/// Fewer than of other stores, because many systems limit the open files of a process.
const LOCKS: [usize; 4] = [1, 100, 1_000, 5_000];

pub(crate) fn run(effort: Effort) -> Table {
    let mut holders = Holder::all("files", LOCKS, directory, |dir: &TempDir| dir.path().display().to_string());
    let clients = Holder::acquire(&mut holders);
    thread::sleep(effort.window(WINDOW));
    let columns = ["memory of a lock, KB", "processor of the client, %", "lost"];
    let mut table = Table::new("Held lock files", &columns);
    for (next, holder) in holders.iter_mut().enumerate() {
        let [share, lost] = holder.end();
        table.row(holder.title(), [holder.of_each(clients[next]), figure(share), format!("{lost:.0}")]);
    }
    table
}

/// The process that holds the locks.
pub(crate) fn hold(how: &str, dir: &Path, flavor: Flavor) {
    let most = most_open_files();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("each process may do so");
    let locker = Locker::new(FileBackend::open(dir).expect("a directory of ours")).expect("defaults");
    let raw = Files { dir, files: Vec::new() };
    flavor.runtime().block_on(crate::held::hold(how, locker, raw));
}

/// Returns how many files a process may open. Most systems permit 1,024 of them at first.
///
/// # Panics
/// If they are too few. onelock would wait until others are closed.
pub(crate) fn most_open_files() -> rlim_t {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("it cannot fail");
    // Each lock of onelock keeps two files open.
    let needed = 2 * LOCKS[LOCKS.len() - 1] as rlim_t + 100;
    assert!(most >= needed, "a process may open {most} files, and needs {needed}: raise `ulimit -H -n`");
    most
}

/// Files that a program opens and locks without a library.
struct Files<'a> {
    dir: &'a Path,
    files: Vec<File>,
}

impl Raw for Files<'_> {
    const PERIOD: Duration = Duration::from_secs(1);

    async fn acquire(&mut self, locks: usize) {
        for key in (0..locks).map(key) {
            let file = open(&self.dir.join(key));
            file.lock().expect("it is free");
            self.files.push(file);
        }
    }

    /// Renews nothing, and checks that each name still means the locked file.
    async fn renew(&mut self) -> usize {
        let named = |lock: &usize| means(&self.dir.join(key(*lock)), &self.files[*lock]);
        (0..self.files.len()).filter(|lock| !named(lock)).count()
    }
}
