//! The conformance suite: one named test for each guarantee of the [`Backend`] contract.
//!
//! A backend runs the suite with a dozen lines in a file under `tests/`:
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
//!     except = [(an_open_descriptor_keeps_the_lock_held, "no lock lives in a descriptor")]
//! }
//! # fn main() {}
//! ```
//!
//! Some cases check single operations of the contract. The other cases run the core over the
//! backend and inject faults:
//!
//! - requests and replies that are lost, duplicated or delayed, and throttling;
//! - processes that are suspended, and clocks that are set;
//! - futures dropped at any await point, and guards dropped on any thread;
//! - records that a third party deletes or replaces ([`Subject::tamper`]);
//! - many random faults at once. The case prints its seed; `ONELOCK_SUITE_SEED` replays it.
//!
//! A case listed under `except` does not run. Its test passes only while the backend lacks the
//! capability that the case needs.

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
    /// Returns a new client of the store, equivalent to a client in another process. All clients of
    /// one subject see the same locks.
    async fn client(&self) -> Arc<dyn Backend>;

    /// Returns the ttl that the cases use: short, but much longer than one request takes. Default:
    /// 500 ms.
    fn ttl(&self) -> Duration {
        Duration::from_millis(500)
    }

    /// Advances the store's time. Default: sleeps.
    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Ends a client as if its process had been killed, and waits until the store can detect that.
    ///
    /// Default: drops the client and lets one ttl pass. Where locks have no ttl, the client's locks
    /// must be free when this method returns.
    async fn crash(&self, client: Arc<dyn Backend>) {
        drop(client);
        self.pass(self.ttl() + self.ttl() / 10).await;
    }

    /// Returns whether several servers vote, so that simultaneous contenders may all miss a
    /// majority. Default: `false`.
    fn votes(&self) -> bool {
        false
    }

    /// Changes the store's record of `name` as a third party could, bypassing the backend.
    ///
    /// Returns `false`, the default, if the subject cannot do that. The cases that need this
    /// kind of tampering must then be excepted, with the reason.
    async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
        let _ = (what, name);
        false
    }
}

/// A change that a third party makes to the store without the clients' knowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tampering {
    /// Deletes the record of the current holder.
    DeleteRecord,
    /// Replaces the record with a long lease of another client.
    ReplaceRecord,
    /// Deletes the fencing token that the store keeps for a free name.
    DeleteToken,
}

/// Generates one test for each case of the suite; see [`testing`](crate::testing).
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

/// Runs the named case, or checks that its exception is justified.
#[doc(hidden)]
pub async fn run(case: &str, subject: &dyn Subject, exceptions: &[(&str, &str)]) {
    for (name, _) in exceptions {
        assert!(cases::NAMES.contains(name), "there is no case {name} that could be excepted");
    }
    let exception = exceptions.iter().find(|(name, _)| *name == case).map(|(_, reason)| *reason);
    cases::run(&Bench { subject, case, exception }).await;
}
