//! The methods that choose options, the same for a locker and for one request.

/// Generates the same setters for everything that owns `LockOptions`.
macro_rules! option_setters {
    () => {
        /// How long the store keeps the lock without a renewal. Default 30 s. An error on a store
        /// that has no ttl (files).
        pub fn ttl(mut self, ttl: Duration) -> Self {
            self.options.ttl = Some(ttl);
            self
        }

        /// The guard's validity ends this long before the store lets anybody else in; covers the
        /// difference in rate between two
        /// clocks and the time that it takes to stop. Default a tenth of the ttl, at least 500 ms,
        /// at most a fifth of the ttl.
        pub fn margin(mut self, margin: Duration) -> Self {
            self.options.margin = Some(margin);
            self
        }

        /// When the lease is renewed. Default in the background, every third of the ttl.
        pub fn renew(mut self, renew: $crate::Renew) -> Self {
            self.options.renew = renew;
            self
        }

        /// [`Guard::run`](crate::Guard::run) stops the work this long before the validity ends,
        /// when renewals keep failing.
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

        /// Keeps the lock for at least this long from its acquisition, even if it is released
        /// earlier, so that a schedule that fires
        /// twice runs once. Default zero.
        pub fn min_hold(mut self, min_hold: Duration) -> Self {
            self.options.min_hold = min_hold;
            self
        }

        /// The guard is lost when it is older than this, whatever the renewals say. Default: no
        /// limit. The remedy
        /// against a guard that is forgotten (`std::mem::forget`, a task that hangs) and would be
        /// renewed for ever.
        pub fn max_hold(mut self, max_hold: Duration) -> Self {
            self.options.max_hold = Some(max_hold);
            self
        }

        /// Time from now on after which the caller will be gone, such as a Lambda invocation's
        /// remaining time. No lease outlives it:
        /// ttls are cut to end there, and the guard is lost by then.
        pub fn deadline(mut self, from_now: Duration) -> Self {
            self.options.deadline = Some(from_now);
            self
        }
    };
}
pub(crate) use option_setters;
