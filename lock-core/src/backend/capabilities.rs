//! Capabilities and timing settings of a backend.

use std::{fmt, str::FromStr, time::Duration};

use crate::types::{Mode, setters};

macro_rules! capabilities {
    ($($(#[$doc:meta])* $field:ident = $text:literal / $variant:ident,)*) => {
        /// The capabilities of a backend, as configured. [`Capability`] has their names in config
        /// strings (`require=fencing,holder`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct Capabilities {
            $($(#[$doc])* pub $field: bool,)*
        }

        /// One thing that a backend may be able to do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Capability {
            $($(#[$doc])* $variant,)*
        }

        impl Capability {
            /// Every capability.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns its name in config strings.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl Capabilities {
            /// Returns whether locks can be held in `mode`.
            pub fn has_mode(&self, mode: Mode) -> bool {
                match mode {
                    Mode::Exclusive => true,
                    Mode::Shared => self.shared,
                    Mode::Permit { .. } => self.permits,
                }
            }

            /// Returns whether `capability` is declared.
            pub fn has(&self, capability: Capability) -> bool {
                match capability { $(Capability::$variant => self.$field,)* }
            }
        }
    };
}

capabilities! {
    /// The user chooses how long a lease lasts. Without it a lock lasts until it is released or its
    /// holder dies.
    ttl = "ttl" / Ttl,
    /// Every acquisition has a token larger than all earlier ones.
    fencing = "fencing" / Fencing,
    /// A lost lock is noticed before another client can hold it.
    loss_signal = "loss-signal" / LossSignal,
    /// A refusal reports the holder.
    holder = "holder" / Holder,
    /// [`inspect`](crate::backend::Admin::inspect) works.
    inspect = "inspect" / Inspect,
    /// [`list`](crate::backend::Admin::list) works.
    list = "list" / List,
    /// [`break_lock`](crate::backend::Admin::break_lock) works.
    break_lock = "break" / Break,
    /// A release wakes waiters, so they need not poll.
    wake_up = "wake-up" / WakeUp,
    /// Many readers or one writer.
    shared = "shared" / Shared,
    /// At most a given number of holders.
    permits = "permits" / Permits,
    /// A grant can reserve further tokens, so that a process may pass the lock on between its own
    /// waiters without a request.
    hand_over = "hand-over" / HandOver,
    /// Waiting requests can be granted in the order in which they came.
    fair = "fair" / Fair,
}

setters!(Capabilities {
    with_ttl(ttl: bool),
    with_fencing(fencing: bool),
    with_loss_signal(loss_signal: bool),
    with_holder(holder: bool),
    with_inspect(inspect: bool),
    with_list(list: bool),
    with_break_lock(break_lock: bool),
    with_wake_up(wake_up: bool),
    with_shared(shared: bool),
    with_permits(permits: bool),
    with_hand_over(hand_over: bool),
    with_fair(fair: bool),
});

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text is not the name of a [`Capability`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no capability \"{name}\"; there are: {known}")]
pub struct UnknownCapability {
    name: String,
    known: String,
}

impl FromStr for Capability {
    type Err = UnknownCapability;

    fn from_str(s: &str) -> Result<Self, UnknownCapability> {
        Self::ALL.iter().copied().find(|c| c.as_str() == s).ok_or_else(|| UnknownCapability {
            name: s.into(),
            known: Self::ALL.iter().map(|c| c.as_str()).collect::<Vec<_>>().join(", "),
        })
    }
}

/// Polling, renewal and timeout settings of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreTimings {
    /// The first pause between two attempts of a waiter; it doubles up to `poll_max`.
    pub poll_min: Duration,
    /// The longest pause between two attempts of a waiter, with jitter. It never ends after the
    /// holder's expiry.
    pub poll_max: Duration,
    /// Time between two renewals on a store without a ttl. There a renewal only asks whether the
    /// lock is still held.
    pub probe_every: Duration,
    /// How long the store keeps a lock without a sign of life, where the user cannot choose it
    /// (NFS). A guard's validity ends before that, as with a ttl. `None` where the user chooses a
    /// ttl, or where locks need no sign of life.
    pub lease: Option<Duration>,
    /// How many leases one [`renew_many`](crate::backend::Backend::renew_many) takes.
    pub renew_batch: usize,
    /// Longest time for one request, where the ttl does not demand less.
    pub attempt_timeout: Duration,
    /// How long before the end of a lease this store may grant the lock to another client: the
    /// error of its judgement of expiry. Guards end at least this long before their leases, and a
    /// thousandth of the lease earlier, because the clocks of two machines differ in rate. Default:
    /// 1 ms, for a store that counts in milliseconds.
    pub least_margin: Duration,
    /// The shortest ttl that makes sense on this store, because of the resolution of its clock or
    /// the price of its writes. A configuration with a shorter ttl is refused; a single request may
    /// have one. Default: zero, so that only the limits of the core count.
    pub least_ttl: Duration,
}

setters!(StoreTimings {
    with_poll_min(poll_min: Duration),
    with_poll_max(poll_max: Duration),
    with_probe_every(probe_every: Duration),
    with_lease(lease: impl Into<Option<Duration>>),
    with_renew_batch(renew_batch: usize),
    with_attempt_timeout(attempt_timeout: Duration),
    with_least_margin(least_margin: Duration),
    with_least_ttl(least_ttl: Duration),
});

impl Default for StoreTimings {
    fn default() -> Self {
        Self {
            poll_min: Duration::from_millis(50),
            poll_max: Duration::from_secs(1),
            probe_every: Duration::from_secs(1),
            lease: None,
            renew_batch: 1,
            attempt_timeout: Duration::from_secs(5),
            least_margin: Duration::from_millis(1),
            least_ttl: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_has_a_name_that_parses_back() {
        for &c in Capability::ALL {
            assert_eq!(c.as_str().parse(), Ok(c));
        }
        let message = "fencin".parse::<Capability>().unwrap_err().to_string();
        assert!(message.contains("\"fencin\"") && message.contains("loss-signal"), "{message}");
    }
}
