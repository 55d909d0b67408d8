//! The options of a check, and the checks that need one pass over the events.

use std::{collections::HashMap, time::Duration};

use crate::{
    event::{Event, EventKind, Mode},
    liveness, order,
    report::{Property, Report},
    validity,
};

/// The optional checks of a history, in addition to those that always run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checks {
    /// The longest time that a lock may be free while a waiter can reach the store. `None` does not
    /// check liveness.
    pub obtainable_within: Option<Duration>,
    /// `true` if no lock is broken and the store loses no data. Then no guard may be told of a loss
    /// before its own end.
    pub undisturbed: bool,
    /// `true` if a guard may hand its lock over to an attempt without an owner of its own. Such an
    /// attempt may then rightly pass the queue of the store.
    pub hands_over: bool,
}

/// Checks `events`, which may be in any order. Events of one worker with the same time must be in
/// the order in which they happened.
pub fn check(events: &[Event], checks: &Checks) -> Report {
    let mut sorted: Vec<&Event> = events.iter().collect();
    // The sort is stable, so events with the same time keep their order.
    sorted.sort_by(|a, b| (&a.name, a.at).cmp(&(&b.name, b.at)));
    let mut report = Report::default();
    for events in sorted.chunk_by(|a, b| a.name == b.name) {
        report.count(events);
        validity::exclusion(events, &mut report);
        tokens_rise(events, &mut report);
        resource_takes_no_old_token(events, &mut report);
        own_lock_is_known(events, &mut report);
        order::kept(events, checks, &mut report);
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

/// Checks that tokens rise. While at most one guard is valid, grants are ordered by time, because
/// each worker records its grant before it can release. Grants of a mode with several holders are
/// ordered only if the one was recorded at an earlier time than the attempt for the other began.
fn tokens_rise<'a>(events: &[&'a Event], report: &mut Report) {
    let mut seen: HashMap<u64, &Event> = HashMap::new();
    let mut attempts: HashMap<u64, Duration> = HashMap::new();
    // The grants that are larger than all before them.
    let mut rising: Vec<(u64, &'a Event)> = Vec::new();
    for &event in events {
        if matches!(event.kind, EventKind::Attempt { .. }) {
            attempts.insert(event.worker, event.at);
        }
        let EventKind::Granted { token: Some(token), mode, .. } = event.kind else { continue };
        let before = match (mode, attempts.get(&event.worker)) {
            (Mode::Exclusive, _) | (_, None) => rising.len(),
            (_, Some(began)) => rising.partition_point(|(_, earlier)| earlier.at < *began),
        };
        let larger = rising[..before].last().filter(|(largest, _)| token <= *largest).map(|(_, earlier)| *earlier);
        if let Some(earlier) = larger.or_else(|| seen.get(&token).copied()) {
            report.found(Property::TokensRise, &[earlier, event]);
        }
        seen.insert(token, event);
        if rising.last().is_none_or(|(largest, _)| token > *largest) {
            rising.push((token, event));
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

/// Checks that no attempt is refused because of its own lock.
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
