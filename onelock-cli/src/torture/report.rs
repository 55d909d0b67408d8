//! The report of a run, as text and as JSON.

use std::{fmt, path::PathBuf, time::Duration};

use lock_history::Report as HistoryReport;
use serde_json::{Value, json};

use super::cleanup::Leftovers;
use crate::{
    colours::Colours,
    exit::Failure,
    one_line::one_line,
    output::{print_as_is, print_json},
};

/// The number of faults of each kind.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FaultCounts {
    pub(super) kills: u64,
    pub(super) freezes: u64,
    pub(super) cuts: u64,
}

impl fmt::Display for FaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, freezes, cuts } = self;
        write!(f, "{kills} killed, {freezes} frozen, {cuts} cut off")
    }
}

/// Prints the report of a run that a failure ended. Without a `store` none could be chosen.
pub(super) fn print_no_result(store: Option<&str>, seed: u64, failure: &Failure, json: bool) -> Result<(), Failure> {
    let why = failure.to_string();
    if json {
        return print_json(&json!({ "passed": null, "failed_because": why, "store": store, "seed": seed }));
    }
    let verdict = Colours::of_output().notable("no result");
    print_as_is(&format!("{verdict}: {}\n{why}", store.map_or_else(|| "no store".to_owned(), one_line)))
}

/// How many violations the JSON report contains in full.
const SHOWN: usize = 20;

#[derive(Debug)]
pub(super) struct TortureReport {
    pub(super) store: String,
    pub(super) seed: u64,
    pub(super) processes: u32,
    pub(super) took: Duration,
    /// The time within which a free lock must have been acquired.
    pub(super) bound: Duration,
    pub(super) faults: FaultCounts,
    /// Why no process was cut off from the store.
    pub(super) not_cut: Option<String>,
    pub(super) errors: Vec<String>,
    pub(super) history: HistoryReport,
    /// The names of this run that are still in the store.
    pub(super) left: Leftovers,
    /// Processes that did not end after the stop request.
    pub(super) hung: Vec<String>,
    pub(super) journals: PathBuf,
}

impl TortureReport {
    /// Whether the run passed; `None` if no lock was acquired, which proves nothing.
    pub(super) fn passed(&self) -> Option<bool> {
        let sound = self.history.violations.is_empty() && self.left.stuck.is_empty() && self.hung.is_empty();
        match (sound, self.history.acquisitions) {
            (true, 0) => None,
            (passed, _) => Some(passed),
        }
    }

    pub(super) fn print(&self, json: bool) -> Result<(), Failure> {
        if json { print_json(&self.json()) } else { print_as_is(&self.text(Colours::of_output())) }
    }

    fn verdict(&self, colours: Colours) -> String {
        match self.passed() {
            Some(true) => colours.good("passed"),
            Some(false) => colours.bad("failed"),
            None => colours.notable("no lock was acquired"),
        }
    }

    fn text(&self, colours: Colours) -> String {
        let Self { store, seed, processes, took, faults, errors, history, .. } = self;
        let mut text = format!(
            "{}: {store}\n{processes} processes for {:.0} s, {faults}, seed {seed}\n{history}",
            self.verdict(colours),
            took.as_secs_f64(),
        );
        if let Some(why) = &self.not_cut {
            text += &format!("\nno process was cut off from the store: {why}");
        }
        if let Some(first) = errors.first() {
            text += &format!("\n{} requests failed, the first: {first}", errors.len());
        }
        for (several, what) in [
            (&self.hung, "processes hung"),
            (&self.left.stuck, "locks stayed held after all processes had ended"),
            (&self.left.kept, "names could not be removed from the store"),
        ] {
            if let Some(first) = several.first() {
                text += &format!("\n{} {what}, the first: {first}", several.len());
            }
        }
        if self.passed() == Some(false) {
            text += &format!("\nthe journals of all processes are in {}", self.journals.display());
        }
        text
    }

    fn json(&self) -> Value {
        let HistoryReport { names, attempts, acquisitions, shared, permits, queued, handed_over, .. } = &self.history;
        let HistoryReport { losses, releases, accepted, rejected, violations, .. } = &self.history;
        let first = violations.iter().take(SHOWN).map(|violation| {
            let events: Vec<_> = violation.events.iter().map(ToString::to_string).collect();
            json!({ "rule": violation.property.as_str(), "events": events })
        });
        json!({
            "passed": self.passed(),
            "failed_because": null,
            "store": self.store,
            "seed": self.seed,
            "seconds": self.took.as_secs_f64(),
            "processes": self.processes,
            "killed": self.faults.kills,
            "frozen": self.faults.freezes,
            "cut_off": self.faults.cuts,
            "not_cut_off_because": self.not_cut,
            "names": names,
            "attempts": attempts,
            "acquisitions": acquisitions,
            "shared": shared,
            "permits": permits,
            "queued": queued,
            "handed_over": handed_over,
            "released": releases,
            "lost": losses,
            "writes_accepted": accepted,
            "writes_refused": rejected,
            "errors": self.errors.len(),
            "first_error": self.errors.first(),
            "hung": self.hung,
            "stuck": self.left.stuck,
            "not_cleaned_up": self.left.kept,
            "obtainable_within": self.bound.as_secs_f64(),
            "violations": violations.len(),
            "first_violations": first.collect::<Vec<_>>(),
            "journals": (self.passed() == Some(false)).then(|| self.journals.display().to_string()),
        })
    }
}
