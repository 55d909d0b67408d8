//! Keeps the descriptors open with which waiters try.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use lock_core::{Holder, LeaseId, LockName};

use crate::{lockfile::LockFile, sync};

/// The descriptors of one backend's waiters.
#[derive(Debug, Default)]
pub(crate) struct Slots(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<LockName, Waiting>,
    /// The descriptor of the latest refusal: its owner is likely to watch next, and closing it would wake all who watch already.
    refused: Option<(LockName, Parked)>,
}

/// A descriptor to try with again.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) lock: LockFile,
    /// Who was in the way the last time.
    pub(crate) told: Option<Told>,
}

/// Whom a refusal named.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) id: LeaseId,
    pub(crate) holder: Holder,
    at: Instant,
}

impl Told {
    pub(crate) fn new(id: LeaseId, holder: Holder) -> Self {
        Self { id, holder, at: Instant::now() }
    }

    /// Whether it may be told again to the same waiter: to read a record on NFS takes three requests, for what nothing depends on.
    pub(crate) fn still_does_for(&self, id: LeaseId) -> bool {
        const FRESH: Duration = Duration::from_secs(15);
        self.id == id && self.holder.expires_in.is_none() && self.at.elapsed() < FRESH
    }
}

/// A waiter that opened and closed the lock file for each try would wake all other waiters with each close, and they it, for
/// ever. So as many descriptors stay open as there are watches, and tries reuse them.
#[derive(Debug, Default)]
struct Waiting {
    watches: usize,
    parked: Vec<Parked>,
}

impl Slots {
    fn state(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.0)
    }

    /// A parked descriptor, to try once with. Nobody else can try with it meanwhile, and so share its lock.
    pub(crate) fn unpark(&self, name: &LockName) -> Option<Parked> {
        let parked = self.state().waiting.get_mut(name).and_then(|waiting| waiting.parked.pop());
        parked.or_else(|| self.take_refused(name))
    }

    /// The descriptor of the latest refusal, if that was for `name`.
    pub(crate) fn take_refused(&self, name: &LockName) -> Option<Parked> {
        self.state().refused.take_if(|(refused, _)| refused == name).map(|(_, parked)| parked)
    }

    /// Keeps `parked` for the next try: as long as there is a watch for it, or else until the next refusal.
    pub(crate) fn park(&self, name: &LockName, parked: Parked) {
        let mut inner = self.state();
        if let Some(waiting) = inner.waiting.get_mut(name).filter(|w| w.parked.len() < w.watches) {
            waiting.parked.push(parked);
            return;
        }
        let before = inner.refused.replace((name.clone(), parked));
        drop(inner);
        drop(before);
    }
}

/// A watch's right to one parked descriptor.
#[derive(Debug)]
pub(crate) struct Seat {
    slots: Arc<Slots>,
    name: LockName,
}

impl Seat {
    pub(crate) fn take(slots: &Arc<Slots>, name: &LockName, parked: Parked) -> Self {
        slots.state().waiting.entry(name.clone()).or_default().watches += 1;
        slots.park(name, parked);
        Self { slots: Arc::clone(slots), name: name.clone() }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.slots.state();
        let Some(waiting) = inner.waiting.get_mut(&self.name) else { return };
        waiting.watches -= 1;
        waiting.parked.truncate(waiting.watches);
        if waiting.watches == 0 {
            inner.waiting.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_is_told_again_what_it_was_told_lately_and_nobody_else_is() {
        let (mine, theirs) = (LeaseId::from(1), LeaseId::from(2));
        let told = Told::new(mine, Holder::default());
        assert!(told.still_does_for(mine) && !told.still_does_for(theirs));
        let passes = Holder { expires_in: Some(Duration::from_secs(5)), ..Holder::default() };
        assert!(!Told::new(mine, passes).still_does_for(mine), "what is left of a minimum hold changes");
        if let Some(at) = Instant::now().checked_sub(Duration::from_secs(16)) {
            assert!(!Told { at, ..told }.still_does_for(mine), "another may hold it by now");
        }
    }
}
