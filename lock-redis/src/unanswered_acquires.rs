//! Tracks abandoned acquires that may still arrive. None may take the lock after its id is
//! released.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use lock_core::backend::LeaseId;

use crate::script::RELEASE_MARK_KEPT;

/// The ids of abandoned acquires and their times.
///
/// An id is kept as long as the server keeps the mark of a release. An older request no longer
/// arrives.
#[derive(Debug, Default)]
pub(crate) struct UnansweredAcquires(Mutex<HashMap<LeaseId, Instant>>);

/// An acquire in flight. If it is dropped without a reply, its id is recorded.
pub(crate) struct AcquireInFlight<'a> {
    unanswered: &'a UnansweredAcquires,
    id: LeaseId,
    pub(crate) answered: bool,
}

impl UnansweredAcquires {
    fn map(&self) -> MutexGuard<'_, HashMap<LeaseId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sending(&self, id: LeaseId) -> AcquireInFlight<'_> {
        AcquireInFlight { unanswered: self, id, answered: false }
    }

    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.map().contains_key(&id)
    }

    pub(crate) fn remove(&self, id: LeaseId) {
        self.map().remove(&id);
    }

    fn note(&self, id: LeaseId) {
        let mut map = self.map();
        // Amortised: scans the whole map, so prune only when it has doubled.
        if map.len().is_power_of_two() {
            map.retain(|_, since| since.elapsed() < RELEASE_MARK_KEPT);
        }
        map.insert(id, Instant::now());
    }
}

impl Drop for AcquireInFlight<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.unanswered.note(self.id);
        }
    }
}
