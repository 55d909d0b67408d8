//! What many processes did with their locks, and a checker that proves that the promises were kept.
//!
//! Pure: events in, [`Report`] out. The simulation, `onelock torture` and an application's own tests feed it. Each worker (a thread
//! or process that does one thing at a time) notes what it did and when; all times must come from one clock, such as `CLOCK_BOOTTIME` of one
//! machine.
//!
//! An alarm is never false if the times are taken on the cautious side: of a belief *before* [`Guard::check`](crate::Guard::check) says that
//! it holds, of its end before the release is sent, of a death before the process is killed.
//!
//! ```
//! use std::time::Duration;
//! use lock_core::history::{Event, What, check, Rules};
//!
//! let at = |millis, worker, what| Event { at: Duration::from_millis(millis), worker, name: "etl".into(), what };
//! let until = |millis| Some(Duration::from_millis(millis));
//! let report = check(
//!     &[
//!         at(1, 1, What::Granted { token: Some(7), until: until(100) }),
//!         at(90, 2, What::Granted { token: Some(8), until: until(190) }),
//!     ],
//!     &Rules::default(),
//! );
//! assert_eq!(report.violations.len(), 1);
//! println!("{report}"); // ... the two events, and that they overlap for 10 ms
//! ```

mod belief;
mod liveness;
mod report;

use std::{sync::Arc, time::Duration};

pub use report::{Report, Rule, Violation};

/// One thing that one worker did with one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, on the clock of this history.
    pub at: Duration,
    /// Who: does one thing at a time, and is never reused for another process.
    pub worker: u64,
    /// Which lock.
    pub name: Arc<str>,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The worker began to ask for the lock, under this owner's name if each attempt has its own.
    Attempt {
        /// As others would read it.
        owner: Option<String>,
    },
    /// The store said that somebody else holds the lock; the attempt goes on.
    Refused {
        /// Who, as the store said.
        owner: Option<String>,
    },
    /// The attempt ended without the lock.
    GaveUp,
    /// The attempt ended with a guard that calls itself valid.
    Granted {
        /// The fencing token.
        token: Option<u64>,
        /// Until when it will call itself valid if nothing else happens; `None` until it ends.
        until: Option<Duration>,
    },
    /// The guard still called itself valid.
    Valid {
        /// As in [`What::Granted`].
        until: Option<Duration>,
    },
    /// The guard called itself lost.
    Lost {
        /// The store had said so, at some time since the guard last called itself valid. Otherwise its own timer had run out, when it was to.
        told: bool,
    },
    /// The worker began to give the lock back.
    Released,
    /// The worker was killed.
    Died,
    /// The worker stopped to run, or was cut off from the store: it is not waited for.
    Stopped,
    /// The worker runs and reaches the store again.
    Resumed,
    /// The protected resource took a write.
    Accepted {
        /// Which came with this token.
        token: u64,
    },
    /// The protected resource refused a write.
    Rejected {
        /// Which came with this token.
        token: u64,
    },
}

/// What a history is checked against, beyond what always holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// Nobody holds a lock and somebody who can reach the store waits for it: for how long at most. `None` checks no liveness.
    pub obtainable_within: Option<Duration>,
    /// Nobody breaks locks, and the store loses nothing: then no guard is told of a loss before it would have ended by itself.
    pub undisturbed: bool,
}

/// Checks `events`, in any order; those of one worker must not share a time unless they stand in the order in which they happened.
pub fn check(events: &[Event], rules: &Rules) -> Report {
    let mut sorted: Vec<&Event> = events.iter().collect();
    // Stable: events of one instant stay as they came.
    sorted.sort_by(|a, b| (&a.name, a.at).cmp(&(&b.name, b.at)));
    let mut report = Report::default();
    for events in sorted.chunk_by(|a, b| a.name == b.name) {
        report.count(events);
        belief::exclusion(events, &mut report);
        tokens_rise(events, &mut report);
        resource_takes_no_old_token(events, &mut report);
        own_lock_is_known(events, &mut report);
        if rules.undisturbed {
            belief::kept_to_the_end(events, &mut report);
        }
        if let Some(bound) = rules.obtainable_within {
            liveness::obtainable(events, bound, &mut report);
        }
    }
    report.violations.sort_by_key(|violation| violation.events.last().map(|event| event.at));
    report
}

/// While at most one believes, the order of grants is the order of time: each worker notes its grant before it can release.
fn tokens_rise(events: &[&Event], report: &mut Report) {
    let mut largest: Option<(u64, &Event)> = None;
    for event in events {
        let What::Granted { token: Some(token), .. } = event.what else { continue };
        match largest {
            Some((before, earlier)) if token <= before => report.found(Rule::TokensRise, &[earlier, event]),
            _ => largest = Some((token, event)),
        }
    }
}

fn resource_takes_no_old_token(events: &[&Event], report: &mut Report) {
    let mut largest: Option<(u64, &Event)> = None;
    for event in events {
        let What::Accepted { token } = event.what else { continue };
        match largest {
            Some((before, earlier)) if token < before => report.found(Rule::NoOldWrite, &[earlier, event]),
            _ => largest = Some((token, event)),
        }
    }
}

/// A worker must never be told that the lock is held by the very attempt that asks for it.
fn own_lock_is_known(events: &[&Event], report: &mut Report) {
    let mut asking: std::collections::HashMap<u64, &Event> = std::collections::HashMap::new();
    for event in events {
        match &event.what {
            What::Attempt { .. } => {
                asking.insert(event.worker, event);
            }
            What::Refused { owner: Some(holder) } => {
                let Some(attempt) = asking.get(&event.worker) else { continue };
                if matches!(&attempt.what, What::Attempt { owner: Some(own) } if own == holder) {
                    report.found(Rule::OwnLockIsKnown, &[attempt, event]);
                }
            }
            What::GaveUp | What::Granted { .. } | What::Died => {
                asking.remove(&event.worker);
            }
            _ => {}
        }
    }
}
