//! The locks that this backend holds.

use std::{
    collections::HashMap,
    fs::File,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use lock_core::{Error, FencingToken};

use crate::{
    held::HeldLock,
    key::Key,
    lockfile::LockFile,
    parts::{Part, PartsFile},
    sync,
};

/// A lock that is held.
#[derive(Debug)]
pub(crate) struct AcquiredLock {
    pub(crate) lock: Arc<LockFile>,
    /// The record, open since it was written. So the release marks this record and never a
    /// successor's. `None` for a part, and if the record could not be written.
    pub(crate) record: Option<File>,
    pub(crate) token: FencingToken,
    /// Whether a duplicate of the descriptor was handed out. Only the last close of the file wakes
    /// waiters, and that may then be the close of the duplicate.
    pub(crate) lent: bool,
    /// The store's clock minus this machine's clock, in microseconds.
    pub(crate) skew_us: i64,
    /// The part of a lock that may have several holders.
    pub(crate) part: Option<Part>,
    pub(crate) _held: HeldLock,
}

impl AcquiredLock {
    pub(crate) fn part_file(&self) -> Option<Arc<PartsFile>> {
        self.part.as_ref().map(|part| Arc::clone(&part.file))
    }

    /// Frees the lock, whose file is at `path`, even while duplicates of its descriptors are open.
    pub(crate) fn unlock(&self, path: &Path) -> Result<(), Error> {
        if let Some(part) = &self.part {
            part.file.unlock_part(part.number);
        }
        self.lock.unlock(path)
    }
}

/// The locks of one backend.
#[derive(Debug, Default)]
pub(crate) struct LockTable(Mutex<HashMap<Key, AcquiredLock>>);

impl LockTable {
    fn locks(&self) -> MutexGuard<'_, HashMap<Key, AcquiredLock>> {
        sync::lock(&self.0)
    }

    pub(crate) fn insert(&self, key: Key, lock: AcquiredLock) {
        self.locks().insert(key, lock);
    }

    pub(crate) fn remove(&self, key: &Key) -> Option<AcquiredLock> {
        self.locks().remove(key)
    }

    pub(crate) fn with<T>(&self, key: &Key, f: impl FnOnce(&mut AcquiredLock) -> T) -> Option<T> {
        self.locks().get_mut(key).map(f)
    }
}
