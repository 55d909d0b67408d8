//! The pauses of a waiter between its attempts.

use std::time::Duration;

use crate::{backend::StoreTimings, types::Holder};

/// The shortest pause, and the shortest lease. A shorter lease would be zero for stores that count
/// in milliseconds.
pub(crate) const SHORTEST: Duration = Duration::from_millis(1);

/// The longest pause of a waiter that the store throttles. As long as the default ttl: 10,000
/// waiters then send a store of 1,000 requests a second no more than it takes.
const THROTTLED: Duration = Duration::from_secs(30);
/// The first pause of a newcomer that the store throttles, unless its polls are closer together.
const FIRST_THROTTLED: Duration = Duration::from_secs(1);

/// Pauses that double, with jitter, so that waiters that started together do not retry together.
pub(crate) struct Backoff {
    pace: StoreTimings,
    next: Duration,
    /// The shortest pause before a holder's expiry. Doubles while the holder stays beyond its
    /// expiry.
    shortest: Duration,
    /// The holder, if known, at the last wake-up by the watch. `None` if a pause followed.
    woken_behind: Option<Option<Holder>>,
    /// The pause after a spurious wake-up. Doubles up to `poll_min`, so that a real one is not
    /// delayed for long.
    for_nothing: Duration,
    /// The pace of a waiter whose requests the store throttles. Zero without throttling.
    slower: Duration,
}

impl Backoff {
    pub(crate) fn new(pace: StoreTimings) -> Self {
        Self {
            pace,
            next: pace.poll_min,
            shortest: SHORTEST,
            woken_behind: None,
            for_nothing: SHORTEST,
            slower: Duration::ZERO,
        }
    }

    fn reset(&mut self) {
        self.next = self.pace.poll_min;
    }

    /// Records that the watch woke the waiter while `holder` held the lock.
    pub(crate) fn woken(&mut self, holder: Option<&Holder>) {
        self.reset();
        self.woken_behind = Some(holder.map(without_times));
    }

    /// Returns how long to ignore the watch after a spurious wake-up, that is, if `holder` has not
    /// changed.
    pub(crate) fn after_wake(&mut self, holder: Option<&Holder>) -> Duration {
        let before = self.woken_behind.take();
        if before.is_none_or(|before| before != holder.map(without_times)) {
            self.for_nothing = SHORTEST;
            return Duration::ZERO;
        }
        let pause = self.for_nothing;
        self.for_nothing = (2 * pause).min(self.pace.poll_min);
        pause
    }

    /// Returns the next pause, which ends at the holder's expiry at the latest.
    pub(crate) fn next(&mut self, expires_in: Option<Duration>) -> Duration {
        let pause = self.next.mul_f64(jitter());
        self.next = (self.next * 2).min(self.pace.poll_max);
        if !self.slower.is_zero() {
            // By an eighth, while throttling doubles it: at most a sixth of all requests is then
            // throttled, and renewals of the holder get through.
            self.slower -= self.slower / 8;
            if self.slower > self.pace.poll_max {
                // Not at the holder's expiry, when all waiters would ask in one moment.
                return self.slower.mul_f64(jitter());
            }
            self.slower = Duration::ZERO;
        }
        let Some(expires_in) = expires_in else { return pause };
        if expires_in > self.shortest {
            self.shortest = SHORTEST;
            return pause.min(expires_in);
        }
        let shortest = self.shortest;
        self.shortest = (2 * shortest).min(self.pace.poll_max);
        shortest
    }

    /// Returns the next pause after a request that the store throttled. Doubles from the present
    /// pause between polls on, because the waiters together poll too often.
    ///
    /// Not from the longest one on: where a release wakes the waiters, polls are rare, and say
    /// nothing about how soon a newcomer may connect.
    pub(crate) fn throttled(&mut self) -> Duration {
        let first = self.next.max(FIRST_THROTTLED).min(self.pace.poll_max);
        self.slower = (2 * self.slower).max(first).min(self.pace.poll_max.max(THROTTLED));
        self.slower.mul_f64(jitter())
    }
}

/// Returns what stays the same while one client holds the lock.
pub(super) fn without_times(holder: &Holder) -> Holder {
    Holder { expires_in: None, held_for: None, ..holder.clone() }
}

/// Returns a random factor between zero and one, another one in each clone of this process.
///
/// A fleet may be made of clones of one memory image, such as a snapshot of a function. A generator
/// in the process would give all of them one delay, and they would ask in one moment.
pub(crate) fn part_of_window() -> f64 {
    let seed = getrandom::u64().expect("getrandom(2) cannot fail once the kernel's generator is seeded");
    fastrand::Rng::with_seed(seed).f64()
}

/// Returns a random factor between a half and one.
pub(crate) fn jitter() -> f64 {
    0.5 + 0.5 * fastrand::f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_with_jitter_up_to_the_longest() {
        let pace = StoreTimings {
            poll_min: Duration::from_millis(10),
            poll_max: Duration::from_millis(80),
            ..StoreTimings::default()
        };
        let mut backoff = Backoff::new(pace);
        for full in [10, 20, 40, 80, 80].map(Duration::from_millis) {
            let pause = backoff.next(None);
            assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
        }
        let longest: std::collections::HashSet<_> = (0..20).map(|_| backoff.next(None)).collect();
        assert!(longest.len() > 1, "jitter");
        backoff.reset();
        assert!(backoff.next(None) <= Duration::from_millis(10));
    }

    #[test]
    fn throttled_pauses_outgrow_polls_and_shrink_again() {
        let mut backoff = Backoff::new(StoreTimings::default());
        for full in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            let (full, pause) = (Duration::from_millis(full), backoff.throttled());
            assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
        }
        let expiry = Some(Duration::from_millis(3));
        let pauses: Vec<_> = std::iter::repeat_with(|| backoff.next(expiry)).take(40).collect();
        assert!(pauses[0] > Duration::from_secs(13), "one answer does not end the throttling: {pauses:?}");
        assert!(pauses[39] <= Duration::from_millis(3), "answers end it: {pauses:?}");
    }

    #[test]
    fn throttled_pauses_begin_with_a_second_or_the_present_poll() {
        let rare = StoreTimings::default().with_poll_max(Duration::from_secs(30));
        let within = |pause: Duration, full| (full / 2..=full).contains(&pause);
        let mut newcomer = Backoff::new(rare);
        for full in [1, 2, 4, 8, 16, 30].map(Duration::from_secs) {
            let pause = newcomer.throttled();
            assert!(within(pause, full), "{pause:?} of {full:?}");
        }
        let mut old = Backoff::new(rare);
        for _ in 0..20 {
            old.next(None);
        }
        let pause = old.throttled();
        assert!(within(pause, Duration::from_secs(30)), "{pause:?}: it polls no more often than that");
    }

    #[test]
    fn a_wake_behind_an_older_same_holder_is_ignored() {
        let mut backoff = Backoff::new(StoreTimings::default());
        let holder = Holder::default().with_owner("etl".to_owned()).with_expires_in(Duration::from_secs(5));
        backoff.woken(Some(&holder.clone().with_held_for(Duration::from_secs(1))));
        let older = holder.clone().with_held_for(Duration::from_secs(2)).with_expires_in(Duration::from_secs(4));
        assert!(!backoff.after_wake(Some(&older)).is_zero());
        backoff.woken(Some(&older));
        assert!(backoff.after_wake(Some(&older.with_owner("next".to_owned()))).is_zero());
    }
}
