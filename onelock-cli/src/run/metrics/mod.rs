//! `--metrics-file`: what became of the runs of a job, for the node exporter's textfile collector.
//!
//! The file is written when the lock was acquired and when the run has ended. It keeps the counters
//! of earlier runs, and the series of other jobs.

mod file;
mod text;

use std::{
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use tokio::time::timeout;

use self::text::Job;
use super::plan::Wanted;
use crate::{
    exit::{self, Exit, Failure},
    output::warn,
    runtime::on_thread,
};

/// How long a write may take before the run goes on without it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// The end of a run, as the label `outcome` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Succeeded,
    Failed,
    Contended,
    Lost,
    Error,
    Interrupted,
}

impl Outcome {
    const ALL: [Self; 6] = [Self::Succeeded, Self::Failed, Self::Contended, Self::Lost, Self::Error, Self::Interrupted];

    fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Contended => "contended",
            Self::Lost => "lost",
            Self::Error => "error",
            Self::Interrupted => "interrupted",
        }
    }

    /// Returns the outcome of a run that had the lock, or not.
    fn of(exit: &Result<Exit, Failure>, was_acquired: bool) -> Self {
        match exit {
            Ok(Exit::Code(0)) if was_acquired => Self::Succeeded,
            Ok(_) if was_acquired => Self::Failed,
            Ok(Exit::Code(_)) => Self::Contended,
            Ok(Exit::Signal(_)) => Self::Interrupted,
            Err(failure) if failure.code == exit::LOST => Self::Lost,
            Err(_) => Self::Error,
        }
    }
}

/// What is written about a run.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Acquired { at: SystemTime, waited: Duration },
    Ended { at: SystemTime, outcome: Outcome, code: i32, held: Option<Duration> },
}

/// The run so far.
#[derive(Debug)]
pub(super) struct RunMetrics<'a> {
    file: &'a Path,
    wanted: &'a Wanted,
    began: Instant,
    acquired: Option<Instant>,
}

impl<'a> RunMetrics<'a> {
    /// Begins with the wait for the lock.
    pub(super) fn new(file: &'a Path, wanted: &'a Wanted) -> Self {
        Self { file, wanted, began: Instant::now(), acquired: None }
    }

    /// Notes that the lock is held.
    pub(super) async fn acquired(&mut self) {
        let now = Instant::now();
        self.acquired = Some(now);
        self.write(Event::Acquired { at: SystemTime::now(), waited: now - self.began }).await;
    }

    /// Notes the end of the run.
    pub(super) async fn ended(&self, exit: &Result<Exit, Failure>) {
        let code = match exit {
            Ok(Exit::Code(code)) => i32::from(*code),
            Ok(Exit::Signal(signal)) => 128 + signal,
            Err(failure) => i32::from(failure.code),
        };
        let outcome = Outcome::of(exit, self.acquired.is_some());
        let held = self.acquired.map(|since| since.elapsed());
        self.write(Event::Ended { at: SystemTime::now(), outcome, code, held }).await;
    }

    /// Writes on a thread, because the directory may hang. A failure is only a warning: the job
    /// matters more than its metrics.
    async fn write(&self, event: Event) {
        let path = self.file.to_owned();
        let stores = &self.wanted.store_names;
        let job = Job {
            name: self.wanted.shown.to_string(),
            chosen_store: stores.chosen.get().cloned(),
            opened_store: stores.opened.get().cloned(),
        };
        let work = on_thread(move || file::update(&path, |series| text::note(series, &job, &event)));
        let error = match timeout(WRITE_TIMEOUT, work).await {
            Ok(Ok(Ok(()))) => return,
            Ok(Ok(Err(error)) | Err(error)) => error.to_string(),
            Err(_) => format!("no answer for {} s", WRITE_TIMEOUT.as_secs()),
        };
        warn(&format!("the metrics were not written to {}: {error}", self.file.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_tell_a_skip_from_a_failure() {
        let lost = || Err(Failure::new(exit::LOST, "lost"));
        let cases: [(Result<Exit, Failure>, bool, Outcome); 8] = [
            (Ok(Exit::Code(0)), true, Outcome::Succeeded),
            (Ok(Exit::Code(3)), true, Outcome::Failed),
            (Ok(Exit::Signal(2)), true, Outcome::Failed),
            (Ok(Exit::Code(0)), false, Outcome::Contended),
            (Ok(Exit::Code(1)), false, Outcome::Contended),
            (Ok(Exit::Signal(2)), false, Outcome::Interrupted),
            (lost(), true, Outcome::Lost),
            (Err(Failure::new(exit::UNAVAILABLE, "down")), false, Outcome::Error),
        ];
        for (exit, was_acquired, outcome) in cases {
            assert_eq!(Outcome::of(&exit, was_acquired), outcome, "{exit:?} {was_acquired}");
        }
    }
}
