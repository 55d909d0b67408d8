//! The timing of a lock, and the rules that tie its choices together.

use std::time::Duration;

use crate::{
    backend::{Capabilities, Capability, StoreTimings},
    types::{DEFAULT_TTL, Error, ErrorKind, LockOptions, Renew},
};

/// The timing of a lock: choices checked against each other, so that
/// `renew interval < renew deadline = ttl - margin < ttl` always holds; see [`Locker::timing`](crate::Locker::timing).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timing {
    /// What the user chose; `None` where the store has no ttl.
    pub ttl: Option<Duration>,
    /// What the store keeps the lock for without a renewal: the ttl, or a lease of the store's own. `None` where locks do not expire.
    pub lease: Option<Duration>,
    /// How long before the end of the lease a guard's validity ends.
    pub margin: Duration,
    /// Time between two renewals; `None` when only [`Guard::renew_if_below`](crate::Guard::renew_if_below) renews.
    pub renew_every: Option<Duration>,
    /// How long before the end of the validity the work is stopped while renewals fail.
    pub grace: Duration,
    /// Longest time for one request.
    pub attempt_timeout: Duration,
}

/// Below this, timers and a single round trip eat the lease up.
const MIN_TTL: Duration = Duration::from_millis(50);
const MAX_TTL: Duration = Duration::from_secs(MAX_DAYS * 24 * 3600);
/// Clocks, and stores that count in milliseconds, overflow far beyond this.
const MAX_DAYS: u64 = 366;
const MIN_RENEW: Duration = Duration::from_millis(5);

impl Timing {
    pub(crate) fn new(options: &LockOptions, capabilities: Capabilities, pace: StoreTimings) -> Result<Self, Error> {
        if let Some(max) = options.max_hold.filter(|max| *max <= options.min_hold) {
            return Err(config(format!("max_hold ({max:?}) must be longer than min_hold ({:?})", options.min_hold)));
        }
        if options.min_hold > MAX_TTL {
            return Err(config(format!("min_hold is {:?}, but must be at most {MAX_DAYS} days", options.min_hold)));
        }
        if capabilities.has(Capability::Ttl) { Self::with_ttl(options, pace) } else { Self::without_ttl(options, pace) }
    }

    fn with_ttl(options: &LockOptions, pace: StoreTimings) -> Result<Self, Error> {
        let ttl = options.ttl.unwrap_or(DEFAULT_TTL);
        if !(MIN_TTL..=MAX_TTL).contains(&ttl) {
            return Err(config(format!("ttl is {ttl:?}, but must be between {MIN_TTL:?} and {MAX_DAYS} days")));
        }
        let leased = Self::leased(options, pace, ("ttl", ttl), ttl / 3)?;
        Ok(Self { ttl: Some(ttl), ..leased })
    }

    /// For a lock that expires: `what` and for how long the store keeps it without a renewal, and how often renewals go out by themselves.
    fn leased(
        options: &LockOptions,
        pace: StoreTimings,
        (what, lease): (&str, Duration),
        auto: Duration,
    ) -> Result<Self, Error> {
        let margin = options.margin.unwrap_or_else(|| (lease / 10).max(Duration::from_millis(500)).min(lease / 5));
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
                "renew ({every:?}) must be at least {MIN_RENEW:?} and shorter than {what} - margin ({deadline:?}); a third of the {what} is usual"
            )));
        }
        let latest = renew_every.map_or(deadline, |every| deadline - every);
        if options.grace >= latest {
            return Err(config(format!(
                "grace ({:?}) must be shorter than {what} - margin - renew ({latest:?}), or healthy work would be stopped",
                options.grace
            )));
        }
        // Two attempts fit between a renewal that comes due and the end of the validity.
        let attempt_timeout = pace.attempt_timeout.min(latest / 2).max(Duration::from_millis(1));
        Ok(Self { ttl: None, lease: Some(lease), margin, renew_every, grace: options.grace, attempt_timeout })
    }

    fn without_ttl(options: &LockOptions, pace: StoreTimings) -> Result<Self, Error> {
        let expires = pace.lease.is_some();
        for (what, set) in [("ttl", options.ttl.is_some()), ("margin", options.margin.is_some() && !expires)] {
            if set {
                return Err(config(format!(
                    "this store has no {what} to choose: a lock lasts until it is released or its holder dies; leave {what} out"
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
        })
    }

    /// The ttl to ask for when the caller's deadline is `left` away, and for how long that makes a guard valid.
    pub(crate) fn lease_for(&self, left: Option<Duration>) -> (Option<Duration>, Option<Duration>) {
        let Some(ttl) = self.ttl else { return (None, self.lease.map(|lease| lease - self.margin)) };
        let Some(cut) = left.filter(|left| *left < ttl) else { return (Some(ttl), Some(ttl - self.margin)) };
        // As much of it as of the ttl; the usual, small one stays whole for longer.
        let in_proportion = self.margin.mul_f64(cut.as_secs_f64() / ttl.as_secs_f64());
        (Some(cut), Some(cut.saturating_sub(in_proportion.max(self.margin.min(cut / 5)))))
    }
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
    };
    const FILES: Capabilities = Capabilities { ttl: false, ..LEASES };

    fn timing(options: &LockOptions) -> Result<Timing, String> {
        Timing::new(options, LEASES, StoreTimings::default()).map_err(|e| e.to_string())
    }

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn defaults_keep_the_renewal_before_the_deadline_for_every_ttl() {
        for ttl in [50, 100, 1_000, 2_500, 30_000, 3_600_000].map(Duration::from_millis) {
            let t = timing(&LockOptions { ttl: Some(ttl), ..LockOptions::default() }).unwrap();
            let (renew, deadline) = (t.renew_every.unwrap(), ttl - t.margin);
            assert!(renew < deadline && deadline < ttl, "{ttl:?}: {t:?}");
            assert!(renew + 2 * t.attempt_timeout <= deadline, "two attempts fit: {ttl:?}: {t:?}");
        }
    }

    #[test]
    fn contradicting_times_are_refused_with_both_numbers() {
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
    fn a_store_without_ttl_refuses_one_and_is_probed_instead() {
        let options = LockOptions { ttl: Some(secs(10)), ..LockOptions::default() };
        let error = Timing::new(&options, FILES, StoreTimings::default()).unwrap_err();
        assert!(error.to_string().contains("no ttl to choose"), "{error}");
        let t = Timing::new(&LockOptions::default(), FILES, StoreTimings::default()).unwrap();
        assert_eq!((t.ttl, t.renew_every), (None, Some(secs(1))));
    }

    #[test]
    fn a_lease_of_the_stores_own_bounds_the_validity_without_a_ttl() {
        let pace = StoreTimings { lease: Some(secs(10)), ..StoreTimings::default() };
        let t = Timing::new(&LockOptions::default(), FILES, pace).unwrap();
        assert_eq!((t.ttl, t.renew_every, t.margin), (None, Some(secs(1)), secs(1)));
        assert_eq!(t.lease_for(None), (None, Some(secs(9))));
        assert_eq!(t.lease_for(Some(secs(5))), (None, Some(secs(9))), "the deadline is a limit of its own");
        assert!(t.renew_every.unwrap() + 2 * t.attempt_timeout <= secs(9), "two attempts fit: {t:?}");
        let wide = LockOptions { margin: Some(secs(3)), ..LockOptions::default() };
        assert_eq!(Timing::new(&wide, FILES, pace).unwrap().lease_for(None), (None, Some(secs(7))));
        for (options, words) in [
            (LockOptions { ttl: Some(secs(30)), ..LockOptions::default() }, "no ttl to choose"),
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
    fn a_lease_is_cut_to_the_callers_deadline() {
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
