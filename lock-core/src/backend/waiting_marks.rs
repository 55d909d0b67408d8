//! Knows which requests of this process may have left the mark of a waiting request.
//!
//! A release removes the mark. Most requests leave none, and their release costs nothing more.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{mutex::Mutex, types::LeaseId};

/// How long an id is remembered at most.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// The ids of requests of this process whose mark of a waiting request may stand, and until when.
///
/// For stores that keep the mark where a grant or a release would have to look for it.
#[derive(Debug, Default)]
pub struct WaitingMarks(Mutex<HashMap<LeaseId, Instant>>);

impl WaitingMarks {
    /// Notes a mark that is about to be set for `ttl`.
    pub fn note(&self, id: LeaseId, ttl: Duration) {
        let mut map = self.0.lock();
        let now = Instant::now();
        // Amortised: scans the whole map, so prune only when it has doubled.
        if map.len().is_power_of_two() {
            map.retain(|_, until| *until > now);
        }
        // Twice as long, because the request may be slow, and the server's clock too.
        map.insert(id, now + ttl.saturating_mul(2).min(LONGEST));
    }

    /// Returns whether the mark of `id` may stand.
    pub fn contains(&self, id: LeaseId) -> bool {
        self.0.lock().contains_key(&id)
    }

    /// Forgets `id`, whose mark was removed.
    pub fn remove(&self, id: LeaseId) {
        self.0.lock().remove(&id);
    }
}
