//! Limits how often, and for how long, the requests of a caller that does not wait are repeated.

use std::time::Duration;

use crate::{
    backend::StoreTimings,
    engine::backoff::{Backoff, jitter},
    types::{ClockReading, Error, ErrorKind},
};

/// How many times a request is sent while errors are transient. More than one, because a single
/// lost reply must neither fail an attempt nor leave a lock held until its ttl ends. Few, because
/// the caller waits, and each request may take a whole request timeout.
const TRIES: u32 = 3;

/// The pause before the second attempt to release, and twice as long before the third. Long enough
/// to reconnect, and short against any usual ttl.
const RELEASE: Duration = Duration::from_millis(100);
/// The longest pause of a release that the store throttles. The holder is one client of the crowd,
/// so its requests do not matter, and all others wait for this one.
const LONGEST_OF_RELEASE: Duration = Duration::from_secs(1);

/// The repetitions of one request. A throttled request is repeated for as long as [`TRIES`]
/// requests without a reply may take.
pub(crate) struct Repeats {
    /// The pause before the second request.
    first: Duration,
    /// The longest time for one request.
    limit: Duration,
    /// The first failure.
    failing: ClockReading,
    sent: u32,
    backoff: Backoff,
    /// The longest pause while the store throttles.
    longest: Duration,
}

impl Repeats {
    /// The repetitions of a request that takes at most `limit`, and has failed `now`.
    pub(crate) fn new(first: Duration, limit: Duration, now: ClockReading) -> Self {
        let backoff = Backoff::new(StoreTimings::default().with_poll_min(first).with_poll_max(first));
        Self { first, limit, failing: now, sent: 1, backoff, longest: Duration::MAX }
    }

    /// The repetitions of a release that takes at most `limit`, and has failed `now`.
    pub(crate) fn of_release(limit: Duration, now: ClockReading) -> Self {
        Self { longest: LONGEST_OF_RELEASE, ..Self::new(RELEASE, limit, now) }
    }

    /// Returns the pause before the next request, and for how long requests go on. `None` if the
    /// request is not sent again.
    pub(crate) fn after(&mut self, error: &Error, now: ClockReading) -> Option<(Duration, Duration)> {
        if !error.is_retryable() {
            return None;
        }
        if error.kind() == ErrorKind::Throttled {
            let left = (self.limit * TRIES).saturating_sub(now.since(self.failing));
            return (!left.is_zero()).then(|| (self.backoff.throttled().min(self.longest).min(left), left));
        }
        let left = TRIES.checked_sub(self.sent).filter(|left| *left > 0)?;
        // With jitter, because other clients got no reply either and retry too.
        let pause = self.first.mul_f64(f64::from(self.sent) * jitter());
        self.sent += 1;
        Some((pause, self.limit * left))
    }
}
