//! The timing of a lock, and the rules that its options have to meet.

use std::time::Duration;

use crate::{
    backend::{Capabilities, Capability, StoreTimings, unsupported_mode},
    types::{DEFAULT_TTL, Error, ErrorKind, LockOptions, MAX_HAND_OVER, Operation, Renew},
};

/// The timing of a lock, made of options that were checked against each other.
///
/// `renew interval < renew deadline = ttl - margin < ttl` always holds. See
/// [`Locker::timing`](crate::Locker::timing).
///
/// ```
/// use std::time::Duration;
///
/// use lock_core::{Locker, memory::MemoryBackend};
///
/// # fn main() -> Result<(), lock_core::Error> {
/// let timing = Locker::new(MemoryBackend::new())?.timing();
/// assert_eq!(timing.ttl, Some(Duration::from_secs(30)));
/// assert_eq!(timing.renew_every, Some(Duration::from_secs(10)));
/// // A guard is valid for ttl - margin after the last confirmed renewal.
/// assert_eq!(timing.margin, Duration::from_secs(3));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timing {
    /// The ttl; `None` if the store has none.
    pub ttl: Option<Duration>,
    /// How long the store keeps the lock without a renewal: the ttl, or the store's own lease.
    /// `None` if locks do not expire.
    pub lease: Option<Duration>,
    /// The time between the end of a guard's validity and the end of the lease.
    pub margin: Duration,
    /// The time between two renewals. `None` if only
    /// [`Guard::renew_if_below`](crate::Guard::renew_if_below) renews.
    pub renew_every: Option<Duration>,
    /// How long before the end of the validity the work is stopped if renewals fail.
    pub grace: Duration,
    /// The time limit for one request.
    pub attempt_timeout: Duration,
    /// See [`StoreTimings::least_margin`].
    store_margin: Duration,
}

/// Below this, timer inaccuracy and a single round trip use up the lease.
const MIN_TTL: Duration = Duration::from_millis(50);
const MAX_TTL: Duration = Duration::from_secs(MAX_DAYS * 24 * 3600);
/// Far below the values at which clocks, and stores that count in milliseconds, overflow.
const MAX_DAYS: u64 = 366;
const MIN_RENEW: Duration = Duration::from_millis(5);
/// Long against a request to any store, so that little time is spent on requests. Short for a
/// waiter of another process.
const HAND_OVER_FOR: Duration = Duration::from_secs(1);
/// In this time two clocks may come apart by one unit: each may be slewed by 500 ppm, the most that
/// adjtimex(2) allows.
const RATE: u32 = 1_000;

/// Returns the least margin of a lease on a store that declares `store_margin`.
fn least_margin(store_margin: Duration, lease: Duration) -> Duration {
    store_margin.saturating_add(lease / RATE)
}

impl Timing {
    pub(crate) fn new(options: &LockOptions, capabilities: Capabilities, pace: StoreTimings) -> Result<Self, Error> {
        if !capabilities.has_mode(options.mode) {
            return Err(unsupported_mode(options.mode));
        }
        if options.fair && !capabilities.fair {
            return Err(unsupported_fair());
        }
        if options.fair && options.hand_over > 0 {
            let message = "fair and hand_over contradict each other: a hand-over favours the waiters of one process; \
                           leave one of them out";
            return Err(config(message.to_owned()));
        }
        if let Some(max) = options.max_hold.filter(|max| *max <= options.min_hold) {
            return Err(config(format!("max_hold ({max:?}) must be longer than min_hold ({:?})", options.min_hold)));
        }
        if options.min_hold > MAX_TTL {
            return Err(config(format!("min_hold is {:?}, but must be at most {MAX_DAYS} days", options.min_hold)));
        }
        if options.hand_over > MAX_HAND_OVER {
            let given = options.hand_over;
            return Err(config(format!("hand_over is {given}, but must be at most {MAX_HAND_OVER}")));
        }
        if capabilities.has(Capability::Ttl) { Self::with_ttl(options, pace) } else { Self::without_ttl(options, pace) }
    }

    /// Returns the timing of all locks of a configuration, whose ttl must make sense on the store.
    /// A single request may have a shorter one, because its code runs on any store.
    pub(crate) fn configured(
        options: &LockOptions,
        capabilities: Capabilities,
        pace: StoreTimings,
    ) -> Result<Self, Error> {
        let timing = Self::new(options, capabilities, pace)?;
        if options.hand_over > 0 && !capabilities.hand_over {
            let message = "hand_over cannot be set on this store: it reserves no fencing tokens for guards that \
                           acquire the lock without a request; leave hand_over out";
            return Err(config(message.to_owned()));
        }
        match timing.ttl.filter(|ttl| *ttl < pace.least_ttl) {
            None => Ok(timing),
            Some(ttl) => {
                let least = pace.least_ttl;
                Err(config(format!("ttl is {ttl:?}, but must be at least {least:?} on this store; raise ttl")))
            }
        }
    }

    fn with_ttl(options: &LockOptions, pace: StoreTimings) -> Result<Self, Error> {
        let ttl = options.ttl.unwrap_or(DEFAULT_TTL);
        if !(MIN_TTL..=MAX_TTL).contains(&ttl) {
            return Err(config(format!("ttl is {ttl:?}, but must be between {MIN_TTL:?} and {MAX_DAYS} days")));
        }
        let leased = Self::leased(options, pace, ("ttl", ttl), ttl / 3)?;
        Ok(Self { ttl: Some(ttl), ..leased })
    }

    /// Returns the timing of a lock that expires after `lease`, which messages call `what`. `auto`
    /// is the interval of automatic renewal.
    fn leased(
        options: &LockOptions,
        pace: StoreTimings,
        (what, lease): (&str, Duration),
        auto: Duration,
    ) -> Result<Self, Error> {
        let margin = Self::margin(options, pace, (what, lease))?;
        let Some(deadline) = lease.checked_sub(margin).filter(|d| !d.is_zero()) else {
            return Err(config(format!("margin ({margin:?}) must be shorter than {what} ({lease:?})")));
        };
        let renew_every = match options.renew {
            Renew::Auto => Some(auto),
            Renew::Every(every) => Some(every),
            Renew::Manual => None,
        };
        if let Some(every) = renew_every.filter(|every| *every < MIN_RENEW || *every >= deadline) {
            return Err(config(format!(
                "renew ({every:?}) must be at least {MIN_RENEW:?} and shorter than {what} - margin ({deadline:?}); a \
                 third of the {what} is usual"
            )));
        }
        let latest = renew_every.map_or(deadline, |every| deadline - every);
        if options.grace >= latest {
            return Err(config(format!(
                "grace ({:?}) must be shorter than {what} - margin - renew ({latest:?}), or work would be stopped \
                 although renewals succeed",
                options.grace
            )));
        }
        // Two attempts fit between the time a renewal is due and the end of the validity.
        let attempt_timeout = pace.attempt_timeout.min(latest / 2).max(Duration::from_millis(1));
        Ok(Self {
            ttl: None,
            lease: Some(lease),
            margin,
            renew_every,
            grace: options.grace,
            attempt_timeout,
            store_margin: pace.least_margin,
        })
    }

    /// Returns the margin of a lease, which messages call `what`: the chosen one, or the default.
    fn margin(options: &LockOptions, pace: StoreTimings, (what, lease): (&str, Duration)) -> Result<Duration, Error> {
        let least = least_margin(pace.least_margin, lease);
        if let Some(margin) = options.margin {
            if margin >= least {
                return Ok(margin);
            }
            return Err(config(format!(
                "margin ({margin:?}) must be at least {least:?}: this store may free a lock {:?} early, and the \
                 rates of two clocks may differ by a thousandth of the {what}; raise margin, or leave it out",
                pace.least_margin
            )));
        }
        if least > lease / 2 {
            // Half of the lease would be enough without the thousandth that grows with it.
            let enough = (pace.least_margin * 2).mul_f64(1.01).as_millis() + 1;
            return Err(config(format!(
                "{what} ({lease:?}) is too short for this store: its least margin ({least:?}) must be at most half \
                 of the {what}; use a {what} of at least {enough}ms"
            )));
        }
        Ok((lease / 10).max(Duration::from_millis(500)).min(lease / 5).max(least))
    }

    fn without_ttl(options: &LockOptions, pace: StoreTimings) -> Result<Self, Error> {
        let expires = pace.lease.is_some();
        for (what, set) in [("ttl", options.ttl.is_some()), ("margin", options.margin.is_some() && !expires)] {
            if set {
                return Err(config(format!(
                    "{what} cannot be set on this store: a lock lasts until it is released or its holder dies; leave \
                     {what} out"
                )));
            }
        }
        if let Some(lease) = pace.lease {
            return Self::leased(options, pace, ("lease", lease), pace.probe_every.min(lease / 3));
        }
        let renew_every = match options.renew {
            Renew::Auto => Some(pace.probe_every),
            Renew::Every(every) if every < MIN_RENEW => {
                return Err(config(format!("renew ({every:?}) must be at least {MIN_RENEW:?}")));
            }
            Renew::Every(every) => Some(every),
            Renew::Manual => None,
        };
        Ok(Self {
            ttl: None,
            lease: None,
            margin: Duration::ZERO,
            renew_every,
            grace: options.grace,
            attempt_timeout: pace.attempt_timeout,
            store_margin: pace.least_margin,
        })
    }

    /// Returns the ttl to request if the caller's deadline is `left` away, and the validity of a
    /// guard with that ttl: zero if the ttl cannot hold the least margin.
    pub(crate) fn lease_for(&self, left: Option<Duration>) -> (Option<Duration>, Option<Duration>) {
        let Some(ttl) = self.ttl else { return (None, self.lease.map(|lease| lease - self.margin)) };
        let Some(cut) = left.filter(|left| *left < ttl) else { return (Some(ttl), Some(ttl - self.margin)) };
        // The margin shrinks in proportion to the ttl, but a small margin keeps its full length for
        // longer.
        let in_proportion = self.margin.mul_f64(cut.as_secs_f64() / ttl.as_secs_f64());
        let margin = in_proportion.max(self.margin.min(cut / 5)).max(self.least_margin(cut));
        (Some(cut), Some(cut.saturating_sub(margin)))
    }

    /// Returns for how long after its grant a lease may be handed over. After that, waiters of
    /// other processes get their turn.
    pub(crate) fn hand_over_for(&self) -> Duration {
        self.lease.map_or(HAND_OVER_FOR, |lease| HAND_OVER_FOR.min(lease / 2))
    }

    /// Returns the least margin of a lease of this length on this store.
    pub(crate) fn least_margin(&self, lease: Duration) -> Duration {
        least_margin(self.store_margin, lease)
    }
}

fn unsupported_fair() -> Error {
    let message = "first come, first served (fair) is not possible on this store; leave fair out, or choose a store \
                   with the capability \"fair\"";
    Error::new(ErrorKind::Unsupported, message).with_ambiguous(false).with_operation(Operation::Acquire)
}

fn config(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASES: Capabilities = Capabilities {
        ttl: true,
        fencing: true,
        loss_signal: true,
        holder: true,
        inspect: false,
        list: false,
        break_lock: false,
        wake_up: false,
        shared: false,
        permits: false,
        hand_over: false,
        fair: false,
    };
    const FILES: Capabilities = Capabilities { ttl: false, ..LEASES };

    fn timing(options: &LockOptions) -> Result<Timing, String> {
        Timing::new(options, LEASES, StoreTimings::default()).map_err(|e| e.to_string())
    }

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn default_renewal_precedes_the_deadline_for_every_ttl() {
        for store_margin in [0, 1, 24, 250].map(Duration::from_millis) {
            let pace = StoreTimings::default().with_least_margin(store_margin);
            for ttl in [50, 100, 505, 1_000, 2_500, 30_000, 3_600_000].map(Duration::from_millis) {
                let options = LockOptions { ttl: Some(ttl), ..LockOptions::default() };
                if ttl < 2 * store_margin {
                    assert!(Timing::new(&options, LEASES, pace).is_err(), "{ttl:?}");
                    continue;
                }
                let t = Timing::new(&options, LEASES, pace).unwrap();
                let (renew, deadline) = (t.renew_every.unwrap(), ttl - t.margin);
                assert!(renew < deadline && deadline < ttl, "{ttl:?}: {t:?}");
                assert!(renew + 2 * t.attempt_timeout <= deadline, "two attempts fit: {ttl:?}: {t:?}");
                assert!(t.margin >= store_margin + ttl / 1_000, "{ttl:?}: {t:?}");
            }
        }
    }

    #[test]
    fn ttl_too_short_for_the_store_names_one_that_fits() {
        let pace = StoreTimings::default().with_least_margin(Duration::from_millis(250));
        let with = |ttl: u64| {
            let ttl = Some(Duration::from_millis(ttl));
            Timing::new(&LockOptions { ttl, ..LockOptions::default() }, LEASES, pace)
        };
        let message = with(400).unwrap_err().to_string();
        assert!(message.contains("ttl (400ms) is too short for this store: its least margin (250.4ms)"), "{message}");
        assert!(message.contains("use a ttl of at least 506ms"), "{message}");
        with(506).unwrap();
    }

    #[test]
    fn configured_ttl_below_that_of_the_store_is_refused() {
        let pace = StoreTimings::default().with_least_ttl(secs(10));
        let with = |ttl| LockOptions { ttl: Some(ttl), ..LockOptions::default() };
        let short = with(Duration::from_millis(9_999));
        let message = Timing::configured(&short, LEASES, pace).unwrap_err().to_string();
        assert!(message.contains("ttl is 9.999s, but must be at least 10s"), "{message}");
        Timing::new(&short, LEASES, pace).expect("a request may ask for less");
        Timing::configured(&with(secs(10)), LEASES, pace).unwrap();
        Timing::configured(&LockOptions::default(), FILES, pace).expect("a store without ttls has no least one");
    }

    #[test]
    fn contradicting_times_are_refused_with_both_values() {
        let base = LockOptions { ttl: Some(secs(10)), ..LockOptions::default() };
        for (options, words) in [
            (LockOptions { margin: Some(secs(10)), ..base.clone() }, "margin (10s) must be shorter than ttl (10s)"),
            (LockOptions { renew: Renew::Every(secs(9)), ..base.clone() }, "shorter than ttl - margin (9s)"),
            (LockOptions { renew: Renew::Every(Duration::ZERO), ..base.clone() }, "renew (0ns) must be at least"),
            (LockOptions { grace: secs(6), ..base.clone() }, "grace (6s) must be shorter"),
            (LockOptions { ttl: Some(Duration::ZERO), ..base.clone() }, "ttl is 0ns"),
            (LockOptions { max_hold: Some(secs(1)), min_hold: secs(2), ..base }, "max_hold (1s) must be longer"),
        ] {
            let message = timing(&options).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn store_without_ttl_refuses_one_and_is_probed() {
        let options = LockOptions { ttl: Some(secs(10)), ..LockOptions::default() };
        let error = Timing::new(&options, FILES, StoreTimings::default()).unwrap_err();
        assert!(error.to_string().contains("ttl cannot be set"), "{error}");
        let t = Timing::new(&LockOptions::default(), FILES, StoreTimings::default()).unwrap();
        assert_eq!((t.ttl, t.renew_every), (None, Some(secs(1))));
    }

    #[test]
    fn lease_of_the_store_bounds_validity_without_ttl() {
        let pace = StoreTimings { lease: Some(secs(10)), ..StoreTimings::default() };
        let t = Timing::new(&LockOptions::default(), FILES, pace).unwrap();
        assert_eq!((t.ttl, t.renew_every, t.margin), (None, Some(secs(1)), secs(1)));
        assert_eq!(t.lease_for(None), (None, Some(secs(9))));
        assert_eq!(t.lease_for(Some(secs(5))), (None, Some(secs(9))), "the deadline is a separate limit");
        assert!(t.renew_every.unwrap() + 2 * t.attempt_timeout <= secs(9), "two attempts fit: {t:?}");
        let wide = LockOptions { margin: Some(secs(3)), ..LockOptions::default() };
        assert_eq!(Timing::new(&wide, FILES, pace).unwrap().lease_for(None), (None, Some(secs(7))));
        for (options, words) in [
            (LockOptions { ttl: Some(secs(30)), ..LockOptions::default() }, "ttl cannot be set"),
            (
                LockOptions { renew: Renew::Every(secs(9)), ..LockOptions::default() },
                "shorter than lease - margin (9s)",
            ),
            (LockOptions { grace: secs(8), ..LockOptions::default() }, "grace (8s) must be shorter"),
        ] {
            let message = Timing::new(&options, FILES, pace).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn lease_is_shortened_to_the_callers_deadline() {
        let t = timing(&LockOptions { ttl: Some(secs(10)), ..LockOptions::default() }).unwrap();
        assert_eq!(t.lease_for(None), (Some(secs(10)), Some(secs(9))));
        assert_eq!(t.lease_for(Some(secs(20))), (Some(secs(10)), Some(secs(9))));
        assert_eq!(t.lease_for(Some(secs(5))), (Some(secs(5)), Some(secs(4))));
        assert_eq!(t.lease_for(Some(Duration::ZERO)), (Some(Duration::ZERO), Some(Duration::ZERO)));
        let wide =
            LockOptions { ttl: Some(secs(10)), margin: Some(secs(8)), renew: Renew::Manual, ..LockOptions::default() };
        let valid = timing(&wide).unwrap().lease_for(Some(Duration::from_millis(9_900))).1.unwrap();
        assert!(
            valid <= secs(2) && valid >= Duration::from_millis(1_900),
            "a chosen margin shrinks with the lease: {valid:?}"
        );
    }
}
