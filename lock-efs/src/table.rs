//! The locks that this backend holds.

use std::{
    collections::HashMap,
    fs::File,
    sync::{Arc, Mutex, MutexGuard},
};

use lock_core::FencingToken;

use crate::{held::HeldLock, key::Key, lockfile::LockFile, sync};

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
    pub(crate) _held: HeldLock,
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
