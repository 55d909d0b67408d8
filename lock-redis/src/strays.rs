//! Acquires that may still be on their way although nobody waits for their answers: they must not take the lock once it was released.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lock_core::LeaseId;

/// For how long they are reckoned with: as long as the server keeps the mark of a release.
const KEPT: Duration = Duration::from_secs(300);

/// The ids of such acquires, and since when.
#[derive(Debug, Default)]
pub(crate) struct Strays(Mutex<HashMap<LeaseId, Instant>>);

/// An acquire on its way. Dropped without an answer, also because its caller gave up, it is noted.
pub(crate) struct Sent<'a> {
    strays: &'a Strays,
    id: LeaseId,
    pub(crate) answered: bool,
}

impl Strays {
    fn map(&self) -> MutexGuard<'_, HashMap<LeaseId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sending(&self, id: LeaseId) -> Sent<'_> {
        Sent { strays: self, id, answered: false }
    }

    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.map().contains_key(&id)
    }

    pub(crate) fn remove(&self, id: LeaseId) {
        self.map().remove(&id);
    }

    fn note(&self, id: LeaseId) {
        let mut map = self.map();
        // Now and then, because it looks at all: those that nobody came to release.
        if map.len().is_power_of_two() {
            map.retain(|_, since| since.elapsed() < KEPT);
        }
        map.insert(id, Instant::now());
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.strays.note(self.id);
        }
    }
}
