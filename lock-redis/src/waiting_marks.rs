//! Knows which exclusive requests of this process may have left the mark of a waiting request.
//!
//! A release removes the mark. Most requests leave none, and their release costs nothing more.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lock_core::backend::LeaseId;

/// How long an id is remembered at most.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// The ids whose mark may stand, and until when.
#[derive(Debug, Default)]
pub(crate) struct WaitingMarks(Mutex<HashMap<LeaseId, Instant>>);

impl WaitingMarks {
    /// Notes a mark that is about to be set for `ttl`.
    pub(crate) fn note(&self, id: LeaseId, ttl: Duration) {
        let mut map = self.map();
        let now = Instant::now();
        // Amortised: scans the whole map, so prune only when it has doubled.
        if map.len().is_power_of_two() {
            map.retain(|_, until| *until > now);
        }
        // Twice as long, because the request may be slow, and the server's clock too.
        map.insert(id, now + ttl.saturating_mul(2).min(LONGEST));
    }

    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.map().contains_key(&id)
    }

    pub(crate) fn remove(&self, id: LeaseId) {
        self.map().remove(&id);
    }

    fn map(&self) -> MutexGuard<'_, HashMap<LeaseId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
