//! What came out of a torture, for people and for programs.

use std::{path::PathBuf, time::Duration};

use lock_core::history::Report;
use serde_json::{Value, json};

use crate::cli::{exit::Failure, operators::print};

/// What was done to the processes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Troubles {
    pub(super) kills: u64,
    pub(super) freezes: u64,
}

#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) store: String,
    pub(super) seed: u64,
    pub(super) processes: u32,
    pub(super) took: Duration,
    /// In which a free lock must have been had.
    pub(super) bound: Duration,
    pub(super) troubles: Troubles,
    pub(super) errors: Vec<String>,
    pub(super) report: Report,
    pub(super) journals: PathBuf,
}

impl Outcome {
    /// `None` when nothing was acquired, which proves nothing.
    pub(super) fn passed(&self) -> Option<bool> {
        match (self.report.violations.is_empty(), self.report.acquisitions) {
            (true, 0) => None,
            (passed, _) => Some(passed),
        }
    }

    pub(super) fn print(&self, json: bool) -> Result<(), Failure> {
        print(&if json { self.json().to_string() } else { self.text() })
    }

    fn verdict(&self) -> &'static str {
        match self.passed() {
            Some(true) => "passed",
            Some(false) => "failed",
            None => "nothing was acquired",
        }
    }

    fn text(&self) -> String {
        let Self { store, seed, processes, took, troubles, errors, report, .. } = self;
        let mut text = format!(
            "{}: {store}\n{processes} processes for {:.0} s, {} killed, {} frozen, seed {seed}\n{report}",
            self.verdict(),
            took.as_secs_f64(),
            troubles.kills,
            troubles.freezes,
        );
        if let Some(first) = errors.first() {
            text += &format!("\n{} requests ended in an error, the first: {first}", errors.len());
        }
        if self.passed() == Some(false) {
            text += &format!("\nthe journals of all processes are in {}", self.journals.display());
        }
        text
    }

    fn json(&self) -> Value {
        let Report { names, attempts, acquisitions, losses, releases, accepted, rejected, violations, .. } =
            &self.report;
        let violations = violations.iter().map(|violation| {
            let events: Vec<_> = violation.events.iter().map(ToString::to_string).collect();
            json!({ "rule": violation.rule.as_str(), "events": events })
        });
        json!({
            "passed": self.passed(),
            "store": self.store,
            "seed": self.seed,
            "seconds": self.took.as_secs_f64(),
            "processes": self.processes,
            "killed": self.troubles.kills,
            "frozen": self.troubles.freezes,
            "names": names,
            "attempts": attempts,
            "acquisitions": acquisitions,
            "released": releases,
            "lost": losses,
            "writes_accepted": accepted,
            "writes_refused": rejected,
            "errors": self.errors.len(),
            "first_error": self.errors.first(),
            "obtainable_within": self.bound.as_secs_f64(),
            "violations": violations.collect::<Vec<_>>(),
        })
    }
}
