//! The conformance suite: one named test for each guarantee of the contract of
//! [`Backend`](crate::backend::Backend).
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
//!     except = [
//!         (an_open_descriptor_keeps_the_lock_held, "no lock lives in a descriptor"),
//!         (an_odd_entry_is_listed_and_hides_no_lock, "only its clients reach the store"),
//!     ]
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
//! - entries that a third party deletes, replaces or adds ([`Subject::tamper`]);
//! - many random faults at once. The case prints its seed; `ONELOCK_SUITE_SEED` replays it.
//!
//! A case listed under `except` does not run. Its test passes only while the backend lacks the
//! capability that the case needs. `modes` stands for all cases of shared locks and permits that
//! the backend cannot do, and `hand_over` for all cases of hand-overs. An attribute such as
//! `#[cfg(windows)]` limits an exception to some platforms.

mod cases;
mod clock;
pub mod faults;
mod harness;
mod subject;

use self::harness::Bench;
pub use self::{
    clock::TestClock,
    subject::{Subject, Tampering},
};

/// Generates one test for each case of the suite; see [`testing`](crate::testing).
#[macro_export]
macro_rules! conformance {
    ($(#[$attribute:meta])+ $subject:expr $(, except = [
        $($(#[$where:meta])* ($except:ident, $reason:literal)),* $(,)?
    ])? $(,)?) => {
        const CONFORMANCE_EXCEPTIONS: &[(&str, &str)] =
            &[$($($(#[$where])* (stringify!($except), $reason)),*)?];
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
        assert!(cases::is_known(name), "there is no case and no module {name} that could be excepted");
    }
    let reason =
        |applies: &dyn Fn(&str) -> bool| exceptions.iter().find(|(name, _)| applies(name)).map(|(_, why)| *why);
    let exception = reason(&|name| name == case);
    let module_exception = reason(&|name| cases::is_module_of(name, case));
    cases::run(&Bench { subject, case, exception, module_exception }).await;
}
