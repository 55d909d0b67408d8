//! Limits how long a waiter goes on while the store fails or throttles.

use std::time::Duration;

use super::backoff::without_times;
use crate::types::{ClockReading, Error, ErrorKind, Holder};

/// How long a waiter retries transient errors before it returns the last one. As long as the
/// default ttl: a longer outage has ended the leases of most holders too, and the caller has to
/// know.
const FAILING: Duration = Duration::from_secs(30);
/// How long a waiter that is always throttled goes on. The store is up, and a store of 1,000
/// requests a second answers 300,000 in this time. So a crowd of waiters alone does not explain a
/// longer silence.
const THROTTLED: Duration = Duration::from_secs(300);

/// The errors since the store's last answer. A refusal for being busy is an answer of a store that
/// is up.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    failing: Option<ClockReading>,
    throttled: Option<ClockReading>,
    /// The holder at the last answer. `None` once the store has failed since.
    holder: Option<Holder>,
}

impl Outage {
    /// Returns how long attempts go on after `error`, which came at `now`. Zero if they do not.
    pub(crate) fn goes_on(&mut self, error: &Error, now: ClockReading) -> Duration {
        if !error.is_retryable() {
            return Duration::ZERO;
        }
        let (since, longest) = if error.kind() == ErrorKind::Throttled {
            self.failing = None;
            (&mut self.throttled, THROTTLED)
        } else {
            self.holder = None;
            (&mut self.failing, FAILING)
        };
        longest.saturating_sub(now.since(*since.get_or_insert(now)))
    }

    /// Records that the store refused the lock because of `holder`.
    pub(crate) fn end(&mut self, holder: &Holder) {
        *self = Self { holder: Some(without_times(holder)), ..Self::default() };
    }

    /// Returns the holder that kept this waiter from the lock, if the wait ends with a request that
    /// the store throttled. The store has answered this waiter before, so to report a failure of
    /// the store would be wrong. After any other failure no holder is known.
    pub(crate) fn last_holder<T>(&self, answer: &Result<T, Error>) -> Option<Holder> {
        self.holder.clone().filter(|_| answer.is_err())
    }
}
