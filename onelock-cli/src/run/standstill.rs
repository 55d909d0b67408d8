//! Notices that a lock has free permits, and that no request gets one.
//!
//! A request that waits, such as one for the exclusive lock, keeps later requests out. If it waits
//! for a process that this one runs under, neither of them ever gets the lock. One answer is no
//! proof: permits are also free for a moment between a release and the next grant.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lock_core::FencingToken;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// How long the same holders leave permits free before that counts as a standstill: longer than the
/// next request in line takes to get one.
const STANDSTILL: Duration = Duration::from_secs(5);

/// The holders of a lock that has free permits.
pub(super) type Holders = Vec<Option<FencingToken>>;

/// What the last answers of the store had in common.
#[derive(Debug, Default)]
pub(super) struct Standstill {
    seen: Mutex<Option<(Holders, Instant)>>,
    changed: Notify,
}

impl Standstill {
    /// Notes an answer at the time `now`: the holders, or `None` if no permit is free.
    pub(super) fn note(&self, holders: Option<Holders>, now: Instant) {
        let mut seen = self.seen();
        if seen.as_ref().map(|(known, _)| known) != holders.as_ref() {
            *seen = holders.map(|holders| (holders, now));
            self.changed.notify_one();
        }
    }

    /// Returns the holders once they have been the same for so long. Cancel safe.
    pub(super) async fn lasts(&self) -> Holders {
        loop {
            let seen = self.seen().clone();
            let Some((holders, since)) = seen else {
                self.changed.notified().await;
                continue;
            };
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = sleep_until(since + STANDSTILL) => return holders,
            }
        }
    }

    fn seen(&self) -> MutexGuard<'_, Option<(Holders, Instant)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_begins_anew_with_other_holders() {
        let standstill = Standstill::default();
        let start = Instant::now();
        let note = |token: Option<u64>, after: u64| {
            let holders = token.map(|token| vec![FencingToken::new(token)]);
            standstill.note(holders, start + Duration::from_secs(after));
            standstill.seen().as_ref().map(|(_, since)| since.duration_since(start).as_secs())
        };
        let answers = [(Some(1), 0), (Some(1), 3), (Some(2), 4), (Some(2), 5), (None, 6), (Some(2), 7)];
        let since = answers.map(|(token, after)| note(token, after));
        assert_eq!(since, [Some(0), Some(0), Some(4), Some(4), None, Some(7)]);
    }
}
