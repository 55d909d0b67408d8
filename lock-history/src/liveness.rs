//! Whether a lock that nobody holds is had by somebody who waits for it.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use crate::{
    event::{Event, EventKind},
    report::{Property, Report},
};

/// Which workers wait and which hold a valid guard, as time goes on.
#[derive(Default)]
struct State<'a> {
    waiting: HashMap<u64, &'a Event>,
    stopped: HashSet<u64>,
    /// Until when each guard is valid.
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
            EventKind::Refused { .. } | EventKind::Accepted { .. } | EventKind::Rejected { .. } => {}
        }
    }

    fn somebody_waits(&self) -> bool {
        self.waiting.keys().any(|worker| !self.stopped.contains(worker))
    }

    /// Until when any guard is valid; zero if none is.
    fn held_until(&self) -> Duration {
        self.holding.values().map(|until| until.unwrap_or(Duration::MAX)).max().unwrap_or_default()
    }
}

/// Reports each time in which nobody held the lock, and somebody who could reach the store waited, for longer than `bound`.
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
            _ if !state.somebody_waits() || held == Duration::MAX => None,
            Some((since, first)) if held <= since => Some((since, first)),
            // A validity may end by itself, later than at this event.
            _ => Some((held.max(event.at), event)),
        };
    }
}
