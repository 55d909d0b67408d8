//! The conformance kit: what the [`Backend`] contract promises, one named test per promise and backend.
//!
//! A backend runs it with a dozen lines in a file under `tests/`:
//!
//! ```
//! use std::sync::Arc;
//! use lock_core::{backend::Backend, memory::MemoryBackend, testing::Subject};
//!
//! struct Memory(MemoryBackend);
//!
//! #[async_trait::async_trait]
//! impl Subject for Memory {
//!     async fn client(&self) -> Arc<dyn Backend> {
//!         Arc::new(self.0.clone())
//!     }
//! }
//!
//! lock_core::conformance! {
//!     #[tokio::test(start_paused = true)]
//!     Memory(MemoryBackend::new()),
//!     except = [(an_open_descriptor_keeps_the_lock_held, "the lock does not live in a descriptor")]
//! }
//! # fn main() {}
//! ```
//!
//! Beside what the contract says of single operations there are cases of the core over the backend: requests and replies that get lost, come twice or
//! hang, throttling, processes that stand still, clocks that are set, futures and guards that are dropped anywhere, records that a third
//! party deletes or replaces ([`Subject::tamper`]), and a storm of faults by chance, whose seed is printed and can be given back in
//! `ONELOCK_KIT_SEED`.
//!
//! A case under `except` does not run; it passes only while the backend indeed lacks what the case needs.

mod cases;
mod clock;
pub mod faults;
mod harness;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

pub use self::clock::TestClock;
use self::harness::Bench;
use crate::{backend::Backend, types::LockName};

/// A store under test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// A new client of the store, as another process would have it. All clients of one subject see the same locks.
    async fn client(&self) -> Arc<dyn Backend>;

    /// The ttl that the cases use: short, but long against one request. Default 500 ms.
    fn ttl(&self) -> Duration {
        Duration::from_millis(500)
    }

    /// Lets time pass for the store. Default: sleeps.
    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Ends a client as if its process had been killed, and waits until the store may know. Default: drops it and lets a
    /// ttl pass; where a lock has no ttl it must be free when the process is gone.
    async fn crash(&self, client: Arc<dyn Backend>) {
        drop(client);
        self.pass(self.ttl() + self.ttl() / 10).await;
    }

    /// Whether several servers vote, so that of many contenders at once there may be none with a majority. Default `false`.
    fn votes(&self) -> bool {
        false
    }

    /// Does to the store's record of `name` what a third party may do, past the backend. `false`, the default, when it cannot: the cases that need
    /// it are then to be excepted, with the reason.
    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        let _ = (what, name);
        false
    }
}

/// What a third party may do to a store behind the back of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tampering {
    /// Delete the record that says who holds the lock.
    DeleteRecord,
    /// Put the lock of another client there, that is held for long.
    ReplaceRecord,
    /// Delete what the store keeps of a free name's tokens.
    DeleteToken,
}

/// Makes one test per case of the kit; see [`testing`](crate::testing).
#[macro_export]
macro_rules! conformance {
    ($(#[$attribute:meta])+ $subject:expr $(, except = [$(($except:ident, $reason:literal)),* $(,)?])? $(,)?) => {
        const CONFORMANCE_EXCEPTIONS: &[(&str, &str)] = &[$($((stringify!($except), $reason)),*)?];
        $crate::conformance_cases! { [$crate::conformance_tests] [$(#[$attribute])+] [$subject] }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    ($attributes:tt $subject:tt $($module:ident :: $case:ident $needs:tt;)*) => {
        $($crate::conformance_test! { $attributes $subject $case })*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_test {
    ([$(#[$attribute:meta])+] [$subject:expr] $case:ident) => {
        $(#[$attribute])+
        async fn $case() {
            let subject = $subject;
            $crate::testing::run(stringify!($case), &subject, CONFORMANCE_EXCEPTIONS).await;
        }
    };
}

/// Runs the case of that name, or checks that it is rightly excepted.
#[doc(hidden)]
pub async fn run(case: &str, subject: &dyn Subject, exceptions: &[(&str, &str)]) {
    for (name, _) in exceptions {
        assert!(cases::NAMES.contains(name), "there is no case {name} that could be excepted");
    }
    let exception = exceptions.iter().find(|(name, _)| *name == case).map(|(_, reason)| *reason);
    cases::run(&Bench { subject, case, exception }).await;
}
