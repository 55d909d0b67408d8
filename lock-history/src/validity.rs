//! Checks the intervals in which guards reported themselves valid.

use std::{collections::HashMap, time::Duration};

use crate::{
    event::{Event, EventKind},
    report::{Property, Report},
};

/// The time in which one guard reported itself valid, with the events that prove it.
#[derive(Debug)]
struct ValidityInterval<'a> {
    granted: &'a Event,
    /// The last event at which the guard reported itself valid.
    confirmed: &'a Event,
    /// `None` if no event has ended it.
    end: Option<Duration>,
}

impl ValidityInterval<'_> {
    fn end(&self) -> Duration {
        self.end.unwrap_or(Duration::MAX)
    }
}

/// Checks that at most one guard is valid at a time. Ends are exclusive: an interval may begin at
/// the time at which another one ends.
pub(super) fn exclusion(events: &[&Event], report: &mut Report) {
    let mut longest: Option<ValidityInterval<'_>> = None;
    for interval in intervals(events) {
        if let Some(earlier) = longest.as_ref().filter(|earlier| interval.granted.at < earlier.end()) {
            let mut part = vec![earlier.granted, earlier.confirmed, interval.granted];
            part.dedup_by(|a, b| std::ptr::eq(*a, *b));
            report.found(Property::Exclusion, &part);
        }
        if longest.as_ref().is_none_or(|longest| interval.end() > longest.end()) {
            longest = Some(interval);
        }
    }
}

/// Checks that no guard was told of a loss before its last reported end.
pub(super) fn kept_to_the_end(events: &[&Event], report: &mut Report) {
    let mut confirmed: HashMap<u64, (&Event, Option<Duration>)> = HashMap::new();
    for &event in events {
        match event.kind {
            EventKind::Granted { until, .. } | EventKind::Valid { until } => {
                confirmed.insert(event.worker, (event, until));
            }
            EventKind::Lost { told } => {
                let early =
                    confirmed.remove(&event.worker).filter(|(_, until)| until.is_none_or(|until| event.at < until));
                if let Some((earlier, _)) = early.filter(|_| told) {
                    report.found(Property::KeptToTheEnd, &[earlier, event]);
                }
            }
            EventKind::Released | EventKind::Died => {
                confirmed.remove(&event.worker);
            }
            _ => {}
        }
    }
}

/// Returns the intervals in the order of their starts.
fn intervals<'a>(events: &[&'a Event]) -> Vec<ValidityInterval<'a>> {
    let mut all: Vec<ValidityInterval<'a>> = Vec::new();
    let mut open: HashMap<u64, usize> = HashMap::new();
    for &event in events {
        match event.kind {
            EventKind::Granted { until, .. } => {
                open.insert(event.worker, all.len());
                all.push(ValidityInterval { granted: event, confirmed: event, end: until });
            }
            EventKind::Valid { until } => {
                if let Some(interval) = open.get(&event.worker).map(|&index| &mut all[index]) {
                    interval.confirmed = event;
                    // A validity may be shortened, but not before the time of this event, at which
                    // the guard was valid.
                    interval.end = until.map(|until| until.max(event.at));
                }
            }
            EventKind::Lost { .. } | EventKind::Released | EventKind::Died => {
                if let Some(index) = open.remove(&event.worker) {
                    let interval = &mut all[index];
                    let known =
                        if event.kind == (EventKind::Lost { told: true }) { interval.confirmed.at } else { event.at };
                    interval.end = Some(interval.end().min(known));
                }
            }
            _ => {}
        }
    }
    all
}
