//! The intervals in which guards called themselves valid, and whether two of them overlap.

use std::{collections::HashMap, time::Duration};

use crate::{
    event::{Event, What},
    report::{Report, Rule},
};

/// One guard's belief, with the events that prove it.
#[derive(Debug)]
struct Belief<'a> {
    granted: &'a Event,
    /// The last event at which the guard said that it is valid.
    confirmed: &'a Event,
    /// `None` when nothing has ended it.
    end: Option<Duration>,
}

impl Belief<'_> {
    fn end(&self) -> Duration {
        self.end.unwrap_or(Duration::MAX)
    }
}

/// Whether at most one guard believes at a time. Ends are exclusive: what ends at an instant may begin elsewhere at the same.
pub(super) fn exclusion(events: &[&Event], report: &mut Report) {
    let mut longest: Option<Belief<'_>> = None;
    for belief in beliefs(events) {
        if let Some(earlier) = longest.as_ref().filter(|earlier| belief.granted.at < earlier.end()) {
            let mut part = vec![earlier.granted, earlier.confirmed, belief.granted];
            part.dedup_by(|a, b| std::ptr::eq(*a, *b));
            report.found(Rule::Exclusion, &part);
        }
        if longest.as_ref().is_none_or(|longest| belief.end() > longest.end()) {
            longest = Some(belief);
        }
    }
}

/// Whether no guard was told of a loss before the end that it had last given for itself.
pub(super) fn kept_to_the_end(events: &[&Event], report: &mut Report) {
    let mut confirmed: HashMap<u64, (&Event, Option<Duration>)> = HashMap::new();
    for &event in events {
        match event.what {
            What::Granted { until, .. } | What::Valid { until } => {
                confirmed.insert(event.worker, (event, until));
            }
            What::Lost { told } => {
                let early =
                    confirmed.remove(&event.worker).filter(|(_, until)| until.is_none_or(|until| event.at < until));
                if let Some((earlier, _)) = early.filter(|_| told) {
                    report.found(Rule::KeptToTheEnd, &[earlier, event]);
                }
            }
            What::Released | What::Died => {
                confirmed.remove(&event.worker);
            }
            _ => {}
        }
    }
}

/// The beliefs in the order in which they began.
fn beliefs<'a>(events: &[&'a Event]) -> Vec<Belief<'a>> {
    let mut all: Vec<Belief<'a>> = Vec::new();
    let mut open: HashMap<u64, usize> = HashMap::new();
    for &event in events {
        match event.what {
            What::Granted { until, .. } => {
                open.insert(event.worker, all.len());
                all.push(Belief { granted: event, confirmed: event, end: until });
            }
            What::Valid { until } => {
                if let Some(belief) = open.get(&event.worker).map(|&index| &mut all[index]) {
                    belief.confirmed = event;
                    // A guard may be cut short, but what it said at an instant was true at that instant.
                    belief.end = until.map(|until| until.max(event.at));
                }
            }
            What::Lost { .. } | What::Released | What::Died => {
                if let Some(index) = open.remove(&event.worker) {
                    let belief = &mut all[index];
                    let known = if event.what == (What::Lost { told: true }) { belief.confirmed.at } else { event.at };
                    belief.end = Some(belief.end().min(known));
                }
            }
            _ => {}
        }
    }
    all
}
