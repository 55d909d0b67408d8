//! The metrics and their names. The `metrics` facade costs nothing until a recorder is installed.

use std::{sync::Arc, time::Duration};

use metrics::{
    IntoF64, Key, Label, Level, Metadata, SharedString, Unit, describe_counter, describe_histogram, with_recorder,
};
use tokio::time::Instant;

use crate::types::{Error, ErrorKind};

static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// Gives the recorder the help texts. Called for each store, because a recorder may be installed
/// late.
pub(crate) fn describe() {
    describe_counter!("onelock_attempts_total", Unit::Count, "Attempts to acquire a lock, by outcome.");
    describe_histogram!("onelock_wait_seconds", Unit::Seconds, "Time from the call to its outcome.");
    describe_counter!(
        "onelock_hand_overs_total",
        Unit::Count,
        "Locks that another guard of this process handed over, without a request to the store."
    );
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
    /// The store refused the request because there are too many.
    Throttled,
    Error,
}

impl From<&Error> for Outcome {
    fn from(error: &Error) -> Self {
        if error.kind() == ErrorKind::Throttled { Self::Throttled } else { Self::Error }
    }
}

/// The metrics of one store, whose label `store` is its config string without secrets.
///
/// The keys of an ordinary cycle are made once, because labels are allocated, also without a
/// recorder.
#[derive(Debug)]
pub(crate) struct Metrics {
    store: SharedString,
    attempts: [Key; 4],
    waits: [Key; 4],
    hand_overs: Key,
    holds: Key,
    renewed: Key,
}

impl Metrics {
    pub(crate) fn new(store: &str) -> Self {
        let store = SharedString::from(Arc::<str>::from(store));
        // In the order of `Outcome`.
        let outcomes = ["acquired", "contended", "throttled", "error"];
        let by_outcome = |name| outcomes.map(|outcome| key(name, &store, "outcome", outcome));
        let plain = |name| Key::from_parts(name, vec![Label::new("store", store.clone())]);
        Self {
            attempts: by_outcome("onelock_attempts_total"),
            waits: by_outcome("onelock_wait_seconds"),
            hand_overs: plain("onelock_hand_overs_total"),
            holds: plain("onelock_hold_seconds"),
            renewed: key("onelock_renewals_total", &store, "outcome", "renewed"),
            store,
        }
    }

    /// Counts attempts to acquire, by outcome.
    pub(crate) fn attempt(&self, outcome: Outcome) {
        count(&self.attempts[outcome as usize]);
    }

    /// Records the time from the call, which `began` then, to its outcome now, in seconds.
    pub(crate) fn waited(&self, outcome: Outcome, began: Instant) {
        record(&self.waits[outcome as usize], Since(began));
    }

    /// Counts acquisitions of a lock that another guard of this process handed over.
    pub(crate) fn handed_over(&self) {
        count(&self.hand_overs);
    }

    /// Records the time from the acquisition to the release or loss, in seconds.
    pub(crate) fn held(&self, time: Duration) {
        record(&self.holds, time);
    }

    /// Counts a renewal that the store confirmed.
    pub(crate) fn renewed(&self) {
        count(&self.renewed);
    }

    /// Counts other renewals by outcome: `lost`, `error`, `throttled`, `timeout`.
    pub(crate) fn not_renewed(&self, outcome: &'static str) {
        count(&key("onelock_renewals_total", &self.store, "outcome", outcome));
    }

    /// Counts losses by [`reason`](crate::LossReason::as_str).
    pub(crate) fn loss(&self, reason: &'static str) {
        count(&key("onelock_losses_total", &self.store, "reason", reason));
    }

    /// Counts requests whose reply was lost and whose outcome a later request found, by operation
    /// and outcome.
    pub(crate) fn ambiguity_resolved(&self, operation: &'static str, found: &'static str) {
        let key = key("onelock_ambiguous_resolved_total", &self.store, "operation", operation);
        count(&key.with_extra_labels(vec![Label::new("as", found)]));
    }

    /// Counts guards that were dropped without a release, by the outcome for the lock: `released`
    /// immediately, released in the `background`, or `leaked`, which means that no release was
    /// confirmed.
    pub(crate) fn dropped(&self, then: &'static str) {
        count(&key("onelock_guards_dropped_total", &self.store, "then", then));
    }
}

fn key(name: &'static str, store: &SharedString, label: &'static str, value: &'static str) -> Key {
    Key::from_parts(name, vec![Label::new("store", store.clone()), Label::new(label, value)])
}

fn count(key: &Key) {
    with_recorder(|recorder| recorder.register_counter(key, &METADATA)).increment(1);
}

/// The time until now. The clock is read only if there is a recorder.
struct Since(Instant);

impl IntoF64 for Since {
    fn into_f64(self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

fn record(key: &Key, time: impl IntoF64) {
    with_recorder(|recorder| recorder.register_histogram(key, &METADATA)).record(time);
}
