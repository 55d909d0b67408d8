//! The locks that this process may hold in the two stores.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use lock_core::{
    LockName,
    backend::{Lease, LeaseId},
};

/// One of the two stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    From,
    To,
}

/// One acquisition. It has its own id in the stores, and gets a new one after each attempt that was
/// rolled back. A store refuses a released id, but the core retries with the same id.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) id: LeaseId,
    /// `true` if the lock may be held in this store.
    from: bool,
    to: bool,
}

impl Taken {
    pub(super) fn has(&self, side: Side) -> bool {
        match side {
            Side::From => self.from,
            Side::To => self.to,
        }
    }

    pub(super) fn set(&mut self, side: Side, held: bool) {
        match side {
            Side::From => self.from = held,
            Side::To => self.to = held,
        }
    }
}

/// All locks that this process may hold through one backend, by the core's ids.
#[derive(Debug, Default)]
pub(super) struct TakenLocks(Mutex<HashMap<(LeaseId, LockName), Taken>>);

impl TakenLocks {
    fn all(&self) -> MutexGuard<'_, HashMap<(LeaseId, LockName), Taken>> {
        // Every change is a single step, so a panic cannot leave a partial change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, id: LeaseId, name: &LockName) -> Taken {
        let known = self.all().get(&(id, name.clone())).copied();
        known.unwrap_or_else(|| Taken { id: LeaseId::random(), from: false, to: false })
    }

    pub(super) fn find(&self, lease: &Lease) -> Option<Taken> {
        self.all().get(&(lease.id, lease.name.clone())).copied()
    }

    /// Records what may be held. Removes an acquisition that holds nothing.
    pub(super) fn put(&self, id: LeaseId, name: &LockName, taken: Taken) {
        let key = (id, name.clone());
        if taken.from || taken.to {
            self.all().insert(key, taken)
        } else {
            self.all().remove(&key)
        };
    }
}
