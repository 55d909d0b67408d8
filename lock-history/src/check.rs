//! What a history is checked against, and the checks that need no more than one pass over the
//! events.

use std::{collections::HashMap, time::Duration};

use crate::{
    event::{Event, EventKind},
    liveness,
    report::{Property, Report},
    validity,
};

/// What a history is checked against, beyond what always holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checks {
    /// Nobody holds a lock and somebody who can reach the store waits for it: for how long at most.
    /// `None` checks no liveness.
    pub obtainable_within: Option<Duration>,
    /// Nobody breaks locks, and the store loses nothing: then no guard is told of a loss before it
    /// would have ended by itself.
    pub undisturbed: bool,
}

/// Checks `events`, in any order; those of one worker must not share a time unless they stand in
/// the order in which they happened.
pub fn check(events: &[Event], checks: &Checks) -> Report {
    let mut sorted: Vec<&Event> = events.iter().collect();
    // Stable: events of one instant stay as they came.
    sorted.sort_by(|a, b| (&a.name, a.at).cmp(&(&b.name, b.at)));
    let mut report = Report::default();
    for events in sorted.chunk_by(|a, b| a.name == b.name) {
        report.count(events);
        validity::exclusion(events, &mut report);
        tokens_rise(events, &mut report);
        resource_takes_no_old_token(events, &mut report);
        own_lock_is_known(events, &mut report);
        if checks.undisturbed {
            validity::kept_to_the_end(events, &mut report);
        }
        if let Some(bound) = checks.obtainable_within {
            liveness::obtainable(events, bound, &mut report);
        }
    }
    report.violations.sort_by_key(|violation| violation.events.last().map(|event| event.at));
    report
}

/// While at most one guard is valid, the order of grants is the order of time: each worker notes its
/// grant before it can release.
fn tokens_rise(events: &[&Event], report: &mut Report) {
    let mut largest: Option<(u64, &Event)> = None;
    for event in events {
        let EventKind::Granted { token: Some(token), .. } = event.kind else { continue };
        match largest {
            Some((before, earlier)) if token <= before => report.found(Property::TokensRise, &[earlier, event]),
            _ => largest = Some((token, event)),
        }
    }
}

fn resource_takes_no_old_token(events: &[&Event], report: &mut Report) {
    let mut largest: Option<(u64, &Event)> = None;
    for event in events {
        let EventKind::Accepted { token } = event.kind else { continue };
        match largest {
            Some((before, earlier)) if token < before => report.found(Property::NoOldWrite, &[earlier, event]),
            _ => largest = Some((token, event)),
        }
    }
}

/// A worker must never be told that the lock is held by the very attempt that asks for it.
fn own_lock_is_known(events: &[&Event], report: &mut Report) {
    let mut asking: HashMap<u64, &Event> = HashMap::new();
    for event in events {
        match &event.kind {
            EventKind::Attempt { .. } => {
                asking.insert(event.worker, event);
            }
            EventKind::Refused { owner: Some(holder) } => {
                let Some(attempt) = asking.get(&event.worker) else { continue };
                if matches!(&attempt.kind, EventKind::Attempt { owner: Some(own) } if own == holder) {
                    report.found(Property::OwnLockIsKnown, &[attempt, event]);
                }
            }
            EventKind::GaveUp | EventKind::Granted { .. } | EventKind::Died => {
                asking.remove(&event.worker);
            }
            _ => {}
        }
    }
}
