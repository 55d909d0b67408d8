//! Checks liveness: a waiter acquires a free lock in time.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use crate::{
    event::{Event, EventKind},
    report::{Property, Report},
};

/// The workers that wait and those that hold a valid guard, at the time of an event.
#[derive(Default)]
struct State<'a> {
    waiting: HashMap<u64, &'a Event>,
    stopped: HashSet<u64>,
    /// The end of the validity of each guard.
    holding: HashMap<u64, Option<Duration>>,
}

impl<'a> State<'a> {
    fn take_in(&mut self, event: &'a Event) {
        let worker = event.worker;
        match event.kind {
            EventKind::Attempt { .. } => {
                self.waiting.insert(worker, event);
            }
            EventKind::GaveUp => {
                self.waiting.remove(&worker);
            }
            EventKind::Granted { until, .. } => {
                self.waiting.remove(&worker);
                self.holding.insert(worker, until);
            }
            EventKind::Valid { until } => {
                self.holding.entry(worker).and_modify(|end| *end = until);
            }
            EventKind::Lost { .. } | EventKind::Released => {
                self.holding.remove(&worker);
            }
            EventKind::Died => {
                self.waiting.remove(&worker);
                self.holding.remove(&worker);
            }
            EventKind::Stopped => {
                self.stopped.insert(worker);
            }
            EventKind::Resumed => {
                self.stopped.remove(&worker);
            }
            EventKind::Refused { .. }
            | EventKind::Queued { .. }
            | EventKind::Accepted { .. }
            | EventKind::Rejected { .. } => {}
        }
    }

    fn has_waiter(&self) -> bool {
        self.waiting.keys().any(|worker| !self.stopped.contains(worker))
    }

    /// Returns the latest end of a guard's validity; zero if no guard is valid.
    fn held_until(&self) -> Duration {
        self.holding.values().map(|until| until.unwrap_or(Duration::MAX)).max().unwrap_or_default()
    }
}

/// Reports each time longer than `bound` in which the lock was free and a waiter could reach the
/// store.
pub(super) fn obtainable(events: &[&Event], bound: Duration, report: &mut Report) {
    let mut state = State::default();
    let mut free_since: Option<(Duration, &Event)> = None;
    for &event in events {
        if let Some((_, first)) = free_since.filter(|(since, _)| event.at.saturating_sub(*since) > bound) {
            report.found(Property::Obtainable, &[first, event]);
            free_since = None;
        }
        state.take_in(event);
        let held = state.held_until();
        free_since = match free_since {
            _ if !state.has_waiter() || held == Duration::MAX => None,
            Some((since, first)) if held <= since => Some((since, first)),
            // A validity may end later than this event.
            _ => Some((held.max(event.at), event)),
        };
    }
}
