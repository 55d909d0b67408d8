//! The names of all metrics, and what is counted where. Through the `metrics` facade: free until a recorder is installed.

use std::time::Duration;

use metrics::{counter, histogram};

/// How an attempt or a whole acquisition ended.
#[derive(Clone, Copy)]
pub(crate) enum Outcome {
    Acquired,
    Contended,
    Error,
}

/// A metric by [`Outcome`]. Labels are literals, which cost nothing until a recorder is installed; others are allocated at each call.
macro_rules! by_outcome {
    ($kind:ident, $name:literal, $outcome:expr) => {
        match $outcome {
            Outcome::Acquired => $kind!($name, "outcome" => "acquired"),
            Outcome::Contended => $kind!($name, "outcome" => "contended"),
            Outcome::Error => $kind!($name, "outcome" => "error"),
        }
    };
}

/// Attempts to acquire, by outcome.
pub(crate) fn attempt(outcome: Outcome) {
    by_outcome!(counter, "onelock_attempts_total", outcome).increment(1);
}

/// Time from the call to its outcome, in seconds.
pub(crate) fn waited(outcome: Outcome, time: Duration) {
    by_outcome!(histogram, "onelock_wait_seconds", outcome).record(time);
}

/// Time from the acquisition to the release or loss, in seconds.
pub(crate) fn held(time: Duration) {
    histogram!("onelock_hold_seconds").record(time);
}

/// Renewals by outcome: `renewed`, `lost`, `error`, `timeout`.
pub(crate) fn renewal(outcome: &'static str) {
    counter!("onelock_renewals_total", "outcome" => outcome).increment(1);
}

/// Losses by [`reason`](crate::LossReason::as_str).
pub(crate) fn loss(reason: &'static str) {
    counter!("onelock_losses_total", "reason" => reason).increment(1);
}

/// Requests whose reply was lost and whose outcome a later request found out, by operation and what it was.
pub(crate) fn ambiguity_resolved(operation: &'static str, found: &'static str) {
    counter!("onelock_ambiguous_resolved_total", "operation" => operation, "as" => found).increment(1);
}

/// Guards that were dropped without a release, each once, by what became of the lock: `released` at once, released in the `background`,
/// `leaked` until its ttl ends, or without a release where it has none.
pub(crate) fn dropped(then: &'static str) {
    counter!("onelock_guards_dropped_total", "then" => then).increment(1);
}
