//! The conformance suite on a migration from one directory to another, and its locks across forks.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command, sync::Arc};

use lock_core::testing::{Subject, Tampering};
use onelock::{
    LockName, Locker, LossReason, Release,
    backend::{AcquireOutcome, AcquireRequest, Backend, LeaseId, ProcessBound},
    blocking,
    files::FileBackend,
    migrate::MigrationBackend,
};
use tempfile::TempDir;
use test_support::fork::{attempt, dropped_in_a_child, forked};

struct Directories {
    old: TempDir,
    new: TempDir,
}

impl Directories {
    fn new() -> Self {
        let [old, new] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        Self { old, new }
    }

    fn migration(&self) -> MigrationBackend {
        let open = |directory: &TempDir| Arc::new(FileBackend::open(directory.path()).unwrap());
        MigrationBackend::new(open(&self.old), open(&self.new))
    }

    fn locker(&self) -> blocking::Locker {
        blocking::Locker::open_with(async { Locker::new(self.migration()) }).unwrap()
    }

    /// Returns which of the two locks `etl` are free, according to `flock(1)`.
    fn free(&self) -> [bool; 2] {
        [&self.old, &self.new].map(|directory| is_free(directory.path()))
    }
}

fn is_free(directory: &Path) -> bool {
    Command::new("flock").arg("-n").arg(directory.join("etl.lock")).arg("true").status().unwrap().success()
}

#[async_trait::async_trait]
impl Subject for Directories {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(self.migration())
    }

    fn may_ask_again(&self) -> bool {
        true
    }

    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        let locks = [&self.old, &self.new].map(|dir| FileBackend::open(dir.path()).unwrap().lock_path(name));
        match what {
            Tampering::DeleteRecord => fs::remove_file(&locks[1]).unwrap(),
            Tampering::AddOddEntry => symlink("/nowhere", &locks[1]).unwrap(),
            Tampering::DeleteToken => {
                locks.iter().for_each(|lock| fs::remove_file(lock.with_extension("info")).unwrap());
            }
            _ => return false,
        }
        true
    }
}

conformance_with_files! {
    Directories::new(),
    except = [
        (a_replaced_record_belongs_to_another_client, "a client that replaces the new lock file does not hold the \
            old one"),
    ]
}

#[tokio::test]
async fn every_descriptor_keeps_its_half_of_the_lock() {
    let directories = Directories::new();
    let migration = directories.migration();
    let request = AcquireRequest::new(LockName::new("etl").unwrap(), LeaseId::random(), "me");
    let granted = migration.acquire(&request).await.unwrap();
    assert!(matches!(granted, AcquireOutcome::Granted(_)), "{granted:?}");
    let mut lent = migration.descriptors(&request.lease(None)).unwrap();
    assert_eq!(lent.len(), 2);
    drop(migration);
    assert_eq!(directories.free(), [false, false]);
    drop(lent.pop());
    assert_eq!(directories.free(), [false, true], "the descriptor of the old lock comes first");
    drop(lent);
    assert_eq!(directories.free(), [true, true]);
}

#[test]
fn a_forked_child_leaves_both_locks_of_its_parent() {
    let directories = Directories::new();
    let locker = directories.locker();
    let guard = locker.acquire("etl").unwrap();
    let (guard, reason) = dropped_in_a_child(guard);
    assert_eq!(reason, format!("{:?}", LossReason::Forked { parent: std::process::id() }));
    let (guard, released) = forked(guard, |guard| format!("{:?}", guard.release()));
    assert_eq!(released, "Ok(NotHeld(None))");
    assert!(guard.check().is_ok());
    assert_eq!(directories.free(), [false, false]);
    let (locker, said) = forked(locker, |locker| format!("{}; {}", attempt(&locker, "etl"), attempt(&locker, "other")));
    assert_eq!(said, "etl contended; other acquired, Ok(Released)");
    assert_eq!(guard.release().unwrap(), Release::Released);
    assert_eq!(directories.free(), [true, true]);
    drop(locker);
}
