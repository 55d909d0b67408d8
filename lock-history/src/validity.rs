//! Checks the intervals in which guards reported themselves valid.

use std::{collections::HashMap, time::Duration};

use crate::{
    event::{Event, EventKind, Mode},
    report::{Property, Report},
};

/// The time in which one guard reported itself valid, with the events that prove it.
#[derive(Debug)]
struct ValidityInterval<'a> {
    granted: &'a Event,
    mode: Mode,
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

/// Checks that only as many guards are valid at a time as their modes allow. Ends are exclusive: an
/// interval may begin at the time at which another one ends.
pub(super) fn exclusion(events: &[&Event], report: &mut Report) {
    let mut valid: Vec<ValidityInterval<'_>> = Vec::new();
    for interval in intervals(events) {
        valid.retain(|earlier| interval.granted.at < earlier.end());
        let excluded = match interval.mode {
            Mode::Exclusive => valid.iter().max_by_key(|earlier| earlier.end()),
            mode => valid.iter().find(|earlier| earlier.mode != mode),
        };
        if let Some(earlier) = excluded {
            let mut part = vec![earlier.granted, earlier.confirmed, interval.granted];
            part.dedup_by(|a, b| std::ptr::eq(*a, *b));
            report.found(Property::Exclusion, &part);
        }
        valid.push(interval);
        if let Some(Mode::Permit { of }) = valid.last().map(|newest| newest.mode)
            && excluded_by_number(&valid, of)
        {
            let part: Vec<_> = valid.iter().map(|interval| interval.granted).collect();
            report.found(Property::Exclusion, &part);
        }
    }
}

/// Returns whether more guards of this number of permits are valid than there are permits.
fn excluded_by_number(valid: &[ValidityInterval<'_>], of: u16) -> bool {
    valid.iter().filter(|interval| interval.mode == Mode::Permit { of }).count() > usize::from(of)
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
            EventKind::Granted { until, mode, .. } => {
                open.insert(event.worker, all.len());
                all.push(ValidityInterval { granted: event, mode, confirmed: event, end: until });
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
