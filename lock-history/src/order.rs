//! Checks that a store serves its queue in order.

use std::{collections::HashMap, time::Duration};

use crate::{
    event::{Event, EventKind, Mode},
    report::{Property, Report},
};

/// A place in the queue of the store.
struct Place<'a> {
    worker: u64,
    mode: Mode,
    first: &'a Event,
    until: Duration,
}

impl Place<'_> {
    /// Returns whether a grant in `mode` has to wait for this place. Readers need not, and permits
    /// need not if there are enough.
    fn excludes(&self, mode: Mode) -> bool {
        self.mode != mode || mode == Mode::Exclusive
    }
}

/// Reports each grant of an attempt that began after another worker had a place, and that was
/// recorded before the place ended. The grant itself was between the two.
pub(super) fn kept(events: &[&Event], report: &mut Report) {
    let mut places: HashMap<u64, Place<'_>> = HashMap::new();
    let mut attempts: HashMap<u64, Duration> = HashMap::new();
    for &event in events {
        match event.kind {
            EventKind::Attempt { .. } => {
                attempts.insert(event.worker, event.at);
            }
            EventKind::Queued { place, mode, until } => {
                let kept = places.remove(&place).filter(|known| event.at < known.until);
                let first = kept.map_or(event, |known| known.first);
                if event.at < until {
                    places.insert(place, Place { worker: event.worker, mode, first, until });
                }
            }
            EventKind::Granted { mode, .. } => {
                places.retain(|_, place| place.worker != event.worker && event.at < place.until);
                let Some(&began) = attempts.get(&event.worker) else { continue };
                let ahead = places.values().filter(|place| place.first.at < began && place.excludes(mode));
                if let Some(place) = ahead.min_by_key(|place| place.first.at) {
                    report.found(Property::InOrder, &[place.first, event]);
                }
            }
            EventKind::GaveUp => places.retain(|_, place| place.worker != event.worker),
            _ => {}
        }
    }
}
