//! The methods that set options, for a locker and for one request.

/// Generates the same setters for everything that has a method `options_mut`.
macro_rules! option_setters {
    () => {
        /// Sets how the lock is held. Default: by one holder. An error on a store that does not
        /// declare the mode.
        pub fn mode(mut self, mode: $crate::Mode) -> Self {
            self.options_mut().mode = mode;
            self
        }

        /// Sets how long the store keeps the lock without a renewal. Default: 30 s. An error on a
        /// store without ttl (files).
        pub fn ttl(mut self, ttl: Duration) -> Self {
            self.options_mut().ttl = Some(ttl);
            self
        }

        /// Sets how long before the end of the lease the guard's validity ends. Covers the
        /// different rates of two clocks, and the time that the work needs to stop. Default: a
        /// tenth of the ttl, at least 500 ms, at most a fifth of the ttl. Never less than a
        /// thousandth of the ttl and the store's
        /// [`least_margin`](crate::backend::StoreTimings::least_margin), which is an error.
        pub fn margin(mut self, margin: Duration) -> Self {
            self.options_mut().margin = Some(margin);
            self
        }

        /// Sets when the lease is renewed. Default: in the background, after every third of the
        /// ttl.
        pub fn renew(mut self, renew: $crate::Renew) -> Self {
            self.options_mut().renew = renew;
            self
        }

        /// Sets how long before the end of the validity [`Guard::run`](crate::Guard::run) stops the
        /// work, if renewals keep failing. Default: zero.
        pub fn grace(mut self, grace: Duration) -> Self {
            self.options_mut().grace = grace;
            self
        }

        /// Sets the name of the holder, which other clients can read. Default: `host:pid-` and a
        /// random part.
        pub fn owner(mut self, owner: impl Into<String>) -> Self {
            self.options_mut().owner = Some(owner.into());
            self
        }

        /// Sets bytes that other clients can read while the lock is held, such as a JSON text.
        pub fn data(mut self, data: impl Into<Vec<u8>>) -> Self {
            self.options_mut().data = Some(data.into());
            self
        }

        /// Sets how long the lock stays held from its acquisition, even if it is released earlier.
        /// So a schedule that fires twice runs once. Default: zero.
        pub fn min_hold(mut self, min_hold: Duration) -> Self {
            self.options_mut().min_hold = min_hold;
            self
        }

        /// Sets how long the lock may be held; after that it is lost although renewals succeed.
        /// Default: no limit. Limits a leaked guard (`std::mem::forget`, a task that hangs), which
        /// would otherwise be renewed forever.
        pub fn max_hold(mut self, max_hold: Duration) -> Self {
            self.options_mut().max_hold = Some(max_hold);
            self
        }

        /// Sets the time from now until the caller ends, such as the remaining time of a Lambda
        /// invocation. No lease outlives it: ttls are shortened, and the guard is lost by then. A
        /// lease that cannot hold the store's least margin is not requested: the acquisition fails
        /// with [`ErrorKind::Timeout`](crate::ErrorKind::Timeout).
        pub fn deadline(mut self, from_now: Duration) -> Self {
            self.options_mut().deadline = Some(from_now);
            self
        }

        /// Sets how many times in a row [`Guard::release`](crate::Guard::release) hands the lock
        /// over to the next waiter of this locker in this process, instead of releasing it.
        /// Default: zero. At most 1,000.
        ///
        /// A hand-over makes no request. The next guard has a larger fencing token, and the rest of
        /// the validity. Waiters of other processes get their turn after this many hand-overs, and
        /// no lease is handed over later than 1 s, or half a lease, after its grant. Then the next
        /// waiter of this process leaves others the time to acquire the lock, unless a release
        /// wakes them before. If there are none, that costs a twentieth of the time.
        ///
        /// A lock is handed over only if:
        /// - both requests have this option and the same owner, data, ttl and timing, and hold the
        ///   lock exclusively and without a deadline;
        /// - the lock is valid for at least half of its lease, `min_hold` has passed, and no
        ///   renewal is in flight or has failed;
        /// - another task was waiting when the lock was requested from the store.
        ///
        /// An error on a store without the capability `hand-over`, if set for the whole locker. In
        /// a single request it has no effect there.
        pub fn hand_over(mut self, times: u32) -> Self {
            self.options_mut().hand_over = times;
            self
        }

        /// Sets whether waiters are served first come, first served, over all processes. Default:
        /// `false`: a newcomer may acquire a lock that was just released before those that wait.
        ///
        /// A waiter takes its place with its first refused attempt. While a place is ahead, other
        /// requests are refused, also those that are not fair, and attempts without a wait. An
        /// attempt without a wait takes no place.
        ///
        /// - A waiter that is cancelled leaves its place immediately.
        /// - The place of a waiter that has died ends a [`ttl`](Self::ttl) after its last attempt.
        ///   Until then the lock may stay free.
        /// - Each waiter asks the store itself, and again after every third of the ttl. Tasks of
        ///   one process do not queue behind each other for one place.
        /// - A waiter that cannot reach the store for a ttl loses its place.
        ///
        /// An error on a store without the capability `fair`, and together with
        /// [`hand_over`](Self::hand_over), which favours the waiters of one process.
        pub fn fair(mut self, fair: bool) -> Self {
            self.options_mut().fair = fair;
            self
        }

        /// Sets a window for the first attempt, which is delayed by a random part of it. Default:
        /// zero. For a fleet whose members all ask at one moment, such as that of a schedule.
        ///
        /// - The delay is a part of the wait. It is at most half of the wait, and half of the time
        ///   until the [`deadline`](Self::deadline), so the other half is left for attempts. An
        ///   attempt without a wait is delayed too.
        /// - A cancelled delay leaves nothing behind.
        /// - With [`fair`](Self::fair), the order of arrival is the order after the delays.
        ///
        /// If the work has to run once for the whole fleet, set [`min_hold`](Self::min_hold) to
        /// more than the window. Otherwise short work ends and releases the lock before the last
        /// member asks, and that member runs the work again.
        pub fn spread(mut self, window: Duration) -> Self {
            self.options_mut().spread = window;
            self
        }
    };
}
pub(crate) use option_setters;
