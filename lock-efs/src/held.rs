//! Counts the locks that this process holds: for the metrics, and for the limit of a mount.

use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use lock_core::backend::Process;
use metrics::{Gauge, Unit, describe_gauge, gauge};

use crate::medium::mount::Mount;

/// The locks of one process on one mount, of all its stores.
///
/// The process is part of the key: a child made by `fork` inherits the list, but not the locks. The
/// list only grows and has no mutex, because a thread could hold one at the moment of a fork.
#[derive(Debug)]
struct MountCount {
    device: u64,
    process: Process,
    held: AtomicUsize,
    has_warned: AtomicBool,
    next: OnceLock<Box<Self>>,
}

static FIRST: OnceLock<Box<MountCount>> = OnceLock::new();

impl MountCount {
    /// Returns the count of this process on `device`. Two mounts of one file system share their
    /// device, and the kernel's connection to the server.
    fn of(device: u64) -> &'static Self {
        let process = Process::current();
        let mut link = &FIRST;
        loop {
            let count = link.get_or_init(|| Box::new(Self::new(device, process)));
            if (count.device, count.process) == (device, process) {
                return count;
            }
            link = &count.next;
        }
    }

    const fn new(device: u64, process: Process) -> Self {
        Self { device, process, held: AtomicUsize::new(0), has_warned: AtomicBool::new(false), next: OnceLock::new() }
    }
}

/// The labels of the metric of held locks. A mount may have several stores.
#[derive(Debug, Clone)]
pub(crate) struct HeldLabels {
    store: Arc<str>,
    mount: Arc<str>,
}

impl HeldLabels {
    pub(crate) fn new(store: String, directory: &Path) -> Self {
        let mount = Mount::of(directory).ok().flatten().map_or_else(String::new, |mount| mount.point);
        Self { store: store.into(), mount: mount.into() }
    }

    pub(crate) fn with_store(self, store: String) -> Self {
        Self { store: store.into(), ..self }
    }

    /// Gives the recorder the help text.
    pub(crate) fn describe() {
        describe_gauge!("onelock_file_locks_held", Unit::Count, "Locks on files that this process holds, by mount.");
    }

    fn gauge(&self) -> Gauge {
        let (store, mount) = (Arc::clone(&self.store), Arc::clone(&self.mount));
        gauge!("onelock_file_locks_held", "store" => store, "mount" => mount)
    }
}

/// Counts a held lock until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldLock {
    labels: HeldLabels,
    count: &'static MountCount,
}

impl HeldLock {
    /// Counts a lock on `device`. Warns once for each process and mount when they reach `many`.
    pub(crate) fn new(labels: &HeldLabels, device: u64, many: Option<usize>) -> Self {
        labels.gauge().increment(1.0);
        let count = MountCount::of(device);
        let held = count.held.fetch_add(1, Ordering::Relaxed) + 1;
        if many.is_some_and(|many| held >= many) && !count.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                held, mount = %labels.mount,
                "this process holds many locks on this mount; EFS allows a process 256 locked files in one mount"
            );
        }
        Self { labels: labels.clone(), count }
    }
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        self.labels.gauge().decrement(1.0);
        self.count.held.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt, time::Duration};

    use lock_core::{
        LockName,
        backend::{AcquireOutcome, AcquireRequest, Lease, LeaseId},
    };
    use test_support::fork::forked;

    use super::*;
    use crate::{medium::local::Local, mode::Mode, store::FileStore};

    /// Devices that no mount has, so that only one test counts on each.
    const NOWHERE: u64 = u64::MAX;

    fn labels() -> HeldLabels {
        HeldLabels { store: "file:///efs/locks".into(), mount: "/efs".into() }
    }

    fn held(device: u64) -> usize {
        MountCount::of(device).held.load(Ordering::Relaxed)
    }

    fn hold(device: u64, locks: usize, many: usize) -> Vec<HeldLock> {
        (0..locks).map(|_| HeldLock::new(&labels(), device, Some(many))).collect()
    }

    fn has_warned(device: u64) -> bool {
        MountCount::of(device).has_warned.load(Ordering::Relaxed)
    }

    #[test]
    fn locks_of_each_mount_are_counted_separately() {
        let [here, there] = [NOWHERE, NOWHERE - 1];
        let locks = hold(here, 2, 3);
        let others = hold(there, 2, 3);
        assert_eq!((held(here), held(there)), (2, 2));
        assert!(!has_warned(here) && !has_warned(there), "neither mount is near its limit");
        let more = hold(here, 1, 3);
        assert!(has_warned(here) && !has_warned(there));
        drop((locks, others, more));
        assert_eq!((held(here), held(there)), (0, 0));
    }

    #[test]
    fn a_forked_child_starts_without_its_parents_locks() {
        let mount = NOWHERE - 2;
        let (parents, seen) = forked(hold(mount, 3, 3), |parents| {
            let before = (held(mount), has_warned(mount));
            let own = hold(mount, 1, 3);
            drop(parents);
            let after = held(mount);
            drop(own);
            format!("{before:?} {after} {}", held(mount))
        });
        assert_eq!(seen, "(0, false) 1 0");
        assert_eq!((held(mount), has_warned(mount), parents.len()), (3, true, 3));
    }

    fn acquire(store: &FileStore, name: &str) -> Lease {
        let request = AcquireRequest::new(LockName::new(name).expect("a valid name"), LeaseId::random(), "me");
        match store.acquire(&request).expect("nothing is in the way") {
            AcquireOutcome::Granted(grant) => request.lease(grant.token),
            AcquireOutcome::Contended(holder) => panic!("held by {holder}"),
        }
    }

    #[test]
    fn two_stores_on_one_mount_share_the_count() {
        let directories = [(); 2].map(|()| tempfile::tempdir().expect("a directory for the test"));
        let device = directories[0].path().metadata().expect("it exists").dev();
        // In a child, where no other test holds locks.
        let (_, counts) = forked(directories, |directories| {
            let mode = Mode::new(None).expect("a valid mode");
            let medium = &Local { keeps_locks: true };
            let stores = directories.each_ref().map(|path| FileStore::new(path.path().to_owned(), mode, medium));
            let leases = stores.each_ref().map(|store| acquire(store, "x"));
            let both = held(device);
            stores[0].release(&leases[0], Duration::ZERO).expect("nothing is in the way");
            let one = held(device);
            stores[1].on_lost(&leases[1]);
            format!("{both} {one} {}", held(device))
        });
        assert_eq!(counts, "2 1 0");
    }
}
