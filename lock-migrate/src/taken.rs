//! What this process may have in the two stores.

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

/// What an acquisition may have in one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Nothing,
    /// A mark that keeps newcomers from joining the holders, because the acquisition waits for
    /// them.
    Mark,
    /// The lock, or a mark.
    Lock,
    /// What a release without an answer was sent for. That release may arrive late, so its id
    /// acquires nothing more.
    Ending,
}

/// An acquisition in one store.
///
/// It has its own id there, and gets a new one once a release is answered. A store refuses a
/// released id, but the core retries with the same id.
#[derive(Debug, Clone, Copy)]
pub(super) struct Half {
    pub(super) id: LeaseId,
    pub(super) state: State,
}

impl Half {
    fn new() -> Self {
        Self { id: LeaseId::random(), state: State::Nothing }
    }
}

/// An acquisition in both stores.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    from: Half,
    to: Half,
}

impl Taken {
    pub(super) fn half(&self, side: Side) -> Half {
        match side {
            Side::From => self.from,
            Side::To => self.to,
        }
    }

    fn half_mut(&mut self, side: Side) -> &mut Half {
        match side {
            Side::From => &mut self.from,
            Side::To => &mut self.to,
        }
    }

    pub(super) fn set(&mut self, side: Side, state: State) {
        self.half_mut(side).state = state;
    }

    /// Notes that nothing is left in this store.
    pub(super) fn clear(&mut self, side: Side) {
        *self.half_mut(side) = Half::new();
    }
}

/// All that this process may have through one backend, by the core's ids.
#[derive(Debug, Default)]
pub(super) struct TakenLocks(Mutex<HashMap<(LeaseId, LockName), Taken>>);

impl TakenLocks {
    fn all(&self) -> MutexGuard<'_, HashMap<(LeaseId, LockName), Taken>> {
        // Every change is a single step, so a panic cannot leave a partial change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, id: LeaseId, name: &LockName) -> Taken {
        let known = self.all().get(&(id, name.clone())).copied();
        known.unwrap_or_else(|| Taken { from: Half::new(), to: Half::new() })
    }

    pub(super) fn find(&self, lease: &Lease) -> Option<Taken> {
        self.all().get(&(lease.id, lease.name.clone())).copied()
    }

    /// Records what may be left. Removes an acquisition that has nothing.
    pub(super) fn put(&self, id: LeaseId, name: &LockName, taken: Taken) {
        let key = (id, name.clone());
        if [taken.from, taken.to].iter().any(|half| half.state != State::Nothing) {
            self.all().insert(key, taken)
        } else {
            self.all().remove(&key)
        };
    }
}
