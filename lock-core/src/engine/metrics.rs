//! The metrics and their names. The `metrics` facade costs nothing until a recorder is installed.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

/// Gives the recorder the help texts. Called for each store, because a recorder may be installed
/// late.
pub(crate) fn describe() {
    describe_counter!("onelock_attempts_total", Unit::Count, "Attempts to acquire a lock, by outcome.");
    describe_histogram!("onelock_wait_seconds", Unit::Seconds, "Time from the call to its outcome.");
    describe_histogram!("onelock_hold_seconds", Unit::Seconds, "Time from the acquisition to the release or loss.");
    describe_counter!("onelock_renewals_total", Unit::Count, "Renewals, by outcome.");
    describe_counter!("onelock_losses_total", Unit::Count, "Locks that were lost while they were held, by reason.");
    describe_counter!(
        "onelock_ambiguous_resolved_total",
        Unit::Count,
        "Requests whose reply was lost and whose outcome a later request found out."
    );
    describe_counter!("onelock_guards_dropped_total", Unit::Count, "Guards that were dropped without a release.");
}

/// The outcome of an attempt or of a whole acquisition.
#[derive(Clone, Copy)]
pub(crate) enum Outcome {
    Acquired,
    Contended,
    Error,
}

/// Records a metric by [`Outcome`]. The labels are literals, because other labels are allocated at
/// each call even without a recorder.
macro_rules! by_outcome {
    ($kind:ident, $name:literal, $outcome:expr) => {
        match $outcome {
            Outcome::Acquired => $kind!($name, "outcome" => "acquired"),
            Outcome::Contended => $kind!($name, "outcome" => "contended"),
            Outcome::Error => $kind!($name, "outcome" => "error"),
        }
    };
}

/// Counts attempts to acquire, by outcome.
pub(crate) fn attempt(outcome: Outcome) {
    by_outcome!(counter, "onelock_attempts_total", outcome).increment(1);
}

/// Records the time from the call to its outcome, in seconds.
pub(crate) fn waited(outcome: Outcome, time: Duration) {
    by_outcome!(histogram, "onelock_wait_seconds", outcome).record(time);
}

/// Counts acquisitions of a lock that another guard of this process handed over.
pub(crate) fn handed_over() {
    counter!("onelock_hand_overs_total").increment(1);
}

/// Records the time from the acquisition to the release or loss, in seconds.
pub(crate) fn held(time: Duration) {
    histogram!("onelock_hold_seconds").record(time);
}

/// Counts renewals by outcome: `renewed`, `lost`, `error`, `timeout`.
pub(crate) fn renewal(outcome: &'static str) {
    counter!("onelock_renewals_total", "outcome" => outcome).increment(1);
}

/// Counts losses by [`reason`](crate::LossReason::as_str).
pub(crate) fn loss(reason: &'static str) {
    counter!("onelock_losses_total", "reason" => reason).increment(1);
}

/// Counts requests whose reply was lost and whose outcome a later request found, by operation and
/// outcome.
pub(crate) fn ambiguity_resolved(operation: &'static str, found: &'static str) {
    counter!("onelock_ambiguous_resolved_total", "operation" => operation, "as" => found).increment(1);
}

/// Counts guards that were dropped without a release, by the outcome for the lock: `released`
/// immediately, released in the `background`, or `leaked`, which means that no release was
/// confirmed.
pub(crate) fn dropped(then: &'static str) {
    counter!("onelock_guards_dropped_total", "then" => then).increment(1);
}
