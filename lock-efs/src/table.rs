//! The locks that this backend holds.

use std::{
    collections::HashMap,
    fs::File,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use lock_core::FencingToken;
use metrics::{Gauge, gauge};

use crate::{key::Key, lockfile::LockFile, medium::mount::Mount, sync};

/// A lock that is held.
#[derive(Debug)]
pub(crate) struct AcquiredLock {
    pub(crate) lock: Arc<LockFile>,
    /// The record, open since it was written. So the release marks this record and never a
    /// successor's. `None` if a full file system had no room for it.
    pub(crate) record: Option<File>,
    pub(crate) token: FencingToken,
    /// Whether a duplicate of the descriptor was handed out. Only the last close of the file wakes
    /// waiters, and that may then be the close of the duplicate.
    pub(crate) lent: bool,
    /// The store's clock minus this machine's clock, in microseconds.
    pub(crate) skew_us: i64,
    pub(crate) _gauge: HeldGauge,
}

/// The labels of the metric of held locks. Limits apply to a mount, which may have several
/// directories of locks.
#[derive(Debug, Clone)]
pub(crate) struct GaugeLabels {
    directory: Arc<str>,
    mount: Arc<str>,
}

impl GaugeLabels {
    pub(crate) fn of(directory: &Path) -> Self {
        let mount = Mount::of(directory).ok().flatten().map_or_else(String::new, |mount| mount.point);
        Self { directory: directory.to_string_lossy().into(), mount: mount.into() }
    }

    fn gauge(&self) -> Gauge {
        let (directory, mount) = (Arc::clone(&self.directory), Arc::clone(&self.mount));
        gauge!("onelock_file_locks_held", "directory" => directory, "mount" => mount)
    }
}

/// Counts a held lock in the metrics until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldGauge(GaugeLabels);

impl HeldGauge {
    pub(crate) fn new(labels: &GaugeLabels) -> Self {
        labels.gauge().increment(1.0);
        Self(labels.clone())
    }
}

impl Drop for HeldGauge {
    fn drop(&mut self) {
        self.0.gauge().decrement(1.0);
    }
}

/// The locks of one backend.
#[derive(Debug, Default)]
pub(crate) struct LockTable(Mutex<HashMap<Key, AcquiredLock>>);

impl LockTable {
    fn locks(&self) -> MutexGuard<'_, HashMap<Key, AcquiredLock>> {
        sync::lock(&self.0)
    }

    /// Adds a lock and returns how many locks are held now.
    pub(crate) fn insert(&self, key: Key, lock: AcquiredLock) -> usize {
        let mut locks = self.locks();
        locks.insert(key, lock);
        locks.len()
    }

    pub(crate) fn remove(&self, key: &Key) -> Option<AcquiredLock> {
        self.locks().remove(key)
    }

    pub(crate) fn with<T>(&self, key: &Key, f: impl FnOnce(&mut AcquiredLock) -> T) -> Option<T> {
        self.locks().get_mut(key).map(f)
    }
}
