//! What can be chosen for a lock, and the timing rules that tie the choices together.

use std::time::Duration;

use crate::{
    capabilities::{Capabilities, Capability, Pace},
    error::{Error, ErrorKind},
};

/// When a guard's lease is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Renew {
    /// In the background, every third of the ttl; on a store without a ttl, as often as it asks to be probed.
    #[default]
    Auto,
    /// In the background, at this interval.
    Every(Duration),
    /// Only by [`Guard::ensure`](crate::Guard::ensure): nothing runs in the background. For a process that may be frozen
    /// between two pieces of work, such as a Lambda function.
    Manual,
}

/// What can be chosen for a [`Locker`](crate::Locker) and overridden for each [`LockRequest`](crate::LockRequest).
///
/// `None` stands for the default that the field's method on [`LockRequest`](crate::LockRequest) documents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LockOptions {
    /// See [`LockRequest::ttl`](crate::LockRequest::ttl).
    pub ttl: Option<Duration>,
    /// See [`LockRequest::margin`](crate::LockRequest::margin).
    pub margin: Option<Duration>,
    /// See [`LockRequest::renew`](crate::LockRequest::renew).
    pub renew: Renew,
    /// See [`LockRequest::grace`](crate::LockRequest::grace).
    pub grace: Duration,
    /// See [`LockRequest::owner`](crate::LockRequest::owner).
    pub owner: Option<String>,
    /// See [`LockRequest::data`](crate::LockRequest::data).
    pub data: Option<Vec<u8>>,
    /// See [`LockRequest::min_hold`](crate::LockRequest::min_hold).
    pub min_hold: Duration,
    /// See [`LockRequest::max_hold`](crate::LockRequest::max_hold).
    pub max_hold: Option<Duration>,
    /// See [`LockRequest::deadline`](crate::LockRequest::deadline).
    pub deadline: Option<Duration>,
}

/// Generates the same setters for everything that owns `LockOptions`.
macro_rules! option_setters {
    () => {
        /// How long the store keeps the lock without a renewal. Default 30 s. An error on a store that has no ttl (files).
        pub fn ttl(mut self, ttl: Duration) -> Self {
            self.options.ttl = Some(ttl);
            self
        }

        /// The guard's validity ends this long before the store lets anybody else in; covers the difference in rate between two
        /// clocks and the time that it takes to stop. Default a tenth of the ttl, at least 500 ms, at most a fifth of the ttl.
        pub fn margin(mut self, margin: Duration) -> Self {
            self.options.margin = Some(margin);
            self
        }

        /// When the lease is renewed. Default in the background, every third of the ttl.
        pub fn renew(mut self, renew: $crate::Renew) -> Self {
            self.options.renew = renew;
            self
        }

        /// [`Guard::run`](crate::Guard::run) stops the work this long before the validity ends, when renewals keep failing.
        /// Default zero.
        pub fn grace(mut self, grace: Duration) -> Self {
            self.options.grace = grace;
            self
        }

        /// How the holder calls itself, for others to read. Default `host:pid-` and a random part.
        pub fn owner(mut self, owner: impl Into<String>) -> Self {
            self.options.owner = Some(owner.into());
            self
        }

        /// Bytes that others can read while the lock is held, such as a JSON text.
        pub fn data(mut self, data: impl Into<Vec<u8>>) -> Self {
            self.options.data = Some(data.into());
            self
        }

        /// Keeps the lock for at least this long from its acquisition, even if it is released earlier, so that a schedule that fires
        /// twice runs once. Default zero.
        pub fn min_hold(mut self, min_hold: Duration) -> Self {
            self.options.min_hold = min_hold;
            self
        }

        /// The guard is lost when it is older than this, whatever the renewals say. Default: no limit. The remedy
        /// against a guard that is forgotten (`std::mem::forget`, a task that hangs) and would be renewed for ever.
        pub fn max_hold(mut self, max_hold: Duration) -> Self {
            self.options.max_hold = Some(max_hold);
            self
        }

        /// Time from now on after which the caller will be gone, such as a Lambda invocation's remaining time. No lease outlives it:
        /// ttls are cut to end there, and the guard is lost by then.
        pub fn deadline(mut self, from_now: Duration) -> Self {
            self.options.deadline = Some(from_now);
            self
        }
    };
}
pub(crate) use option_setters;

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
    /// Time between two renewals; `None` when only [`Guard::ensure`](crate::Guard::ensure) renews.
    pub renew_every: Option<Duration>,
    /// How long before the end of the validity the work is stopped while renewals fail.
    pub grace: Duration,
    /// Longest time for one request.
    pub attempt_timeout: Duration,
}

const DEFAULT_TTL: Duration = Duration::from_secs(30);
/// Below this, timers and a single round trip eat the lease up.
const MIN_TTL: Duration = Duration::from_millis(50);
const MAX_TTL: Duration = Duration::from_secs(MAX_DAYS * 24 * 3600);
/// Clocks, and stores that count in milliseconds, overflow far beyond this.
const MAX_DAYS: u64 = 366;
const MIN_RENEW: Duration = Duration::from_millis(5);

impl Timing {
    pub(crate) fn new(options: &LockOptions, capabilities: Capabilities, pace: Pace) -> Result<Self, Error> {
        if let Some(max) = options.max_hold.filter(|max| *max <= options.min_hold) {
            return Err(config(format!("max_hold ({max:?}) must be longer than min_hold ({:?})", options.min_hold)));
        }
        if options.min_hold > MAX_TTL {
            return Err(config(format!("min_hold is {:?}, but must be at most {MAX_DAYS} days", options.min_hold)));
        }
        if capabilities.has(Capability::Ttl) { Self::with_ttl(options, pace) } else { Self::without_ttl(options, pace) }
    }

    fn with_ttl(options: &LockOptions, pace: Pace) -> Result<Self, Error> {
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
        pace: Pace,
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

    fn without_ttl(options: &LockOptions, pace: Pace) -> Result<Self, Error> {
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
        Timing::new(options, LEASES, Pace::default()).map_err(|e| e.to_string())
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
        let error = Timing::new(&options, FILES, Pace::default()).unwrap_err();
        assert!(error.to_string().contains("no ttl to choose"), "{error}");
        let t = Timing::new(&LockOptions::default(), FILES, Pace::default()).unwrap();
        assert_eq!((t.ttl, t.renew_every), (None, Some(secs(1))));
    }

    #[test]
    fn a_lease_of_the_stores_own_bounds_the_validity_without_a_ttl() {
        let pace = Pace { lease: Some(secs(10)), ..Pace::default() };
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
