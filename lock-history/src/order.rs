//! Checks that a store serves its queue in order.

use std::{collections::HashMap, time::Duration};

use crate::{
    check::Checks,
    event::{Event, EventKind, Mode},
    report::{Property, Report},
};

/// Returns the times from which, and until which, a fair waiter surely had one place.
///
/// The waiter sees only `replies`: the time at which it `began`, each refusal, and last a grant if
/// there was one. A place lasts for `ttl` after the store's answer to an attempt, so a refusal that
/// comes later begins another place. So does one after half of the ttl: in between, a grant may
/// have come too late for a guard, and the waiter then begins anew.
pub fn places(began: Duration, replies: &[Duration], ttl: Duration) -> Vec<(Duration, Duration)> {
    let mut places: Vec<(Duration, Duration)> = Vec::new();
    let (mut sent_after, mut before) = (began, began);
    for &at in replies {
        let kept = at < sent_after + ttl && at < before + ttl / 2;
        match places.last_mut() {
            Some((_, until)) if kept => *until = at,
            _ => places.push((at, at)),
        }
        (sent_after, before) = (before, at);
    }
    places
}

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
/// recorded before the place ended. The grant itself was between the two. A worker that was killed
/// may have lost its place, because on some stores it ends with the process.
pub(super) fn kept(events: &[&Event], checks: &Checks, report: &mut Report) {
    let mut places: HashMap<u64, Place<'_>> = HashMap::new();
    let mut attempts: HashMap<u64, Duration> = HashMap::new();
    for &event in events {
        match event.kind {
            // A guard of the same process may hand the lock over to it, past the queue.
            EventKind::Attempt { owner: None } if checks.hands_over => {
                attempts.remove(&event.worker);
            }
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
            EventKind::GaveUp | EventKind::Died => places.retain(|_, place| place.worker != event.worker),
            _ => {}
        }
    }
}
