//! The observed-lease rule: a version that stays the same for a whole lease belongs to a dead
//! holder.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::{
    mutex::Mutex,
    types::{ClockReading, LockName},
};

/// Remembers since when the lock of each name has had its version, for stores without a usable
/// clock.
///
/// An observer needs no clock in common with the holder: when the version has not changed for the
/// holder's whole lease, on the observer's clock, the holder is dead. Take the lock over only on
/// condition of the observed version. The memory is bounded: the oldest observation goes first, and
/// costs the lock of a dead holder one more lease of waiting.
#[derive(Debug)]
pub struct Observations {
    most: usize,
    seen: Mutex<ObservationIndex>,
}

#[derive(Debug, Default)]
struct ObservationIndex {
    by_name: HashMap<LockName, Observation>,
    by_age: BTreeMap<u64, LockName>,
    next: u64,
}

#[derive(Debug)]
struct Observation {
    version: String,
    /// Time since boot. Holders use the larger of two clocks, which errs towards later; observers
    /// must not.
    since: Duration,
    order: u64,
}

impl Observations {
    /// An empty memory for at most `most` names.
    pub fn new(most: usize) -> Self {
        Self { most, seen: Mutex::default() }
    }

    /// Returns for how long `name` has had this version, as far as this process has seen.
    pub fn unchanged_for(&self, name: &LockName, version: &str, now: ClockReading) -> Duration {
        let mut seen = self.seen.lock();
        if let Some(known) = seen.by_name.get(name).filter(|known| known.version == version) {
            return now.boot.saturating_sub(known.since);
        }
        seen.forget(name);
        while seen.by_name.len() >= self.most {
            let Some((_, oldest)) = seen.by_age.pop_first() else { break };
            seen.by_name.remove(&oldest);
        }
        let order = seen.next;
        seen.next += 1;
        seen.by_age.insert(order, name.clone());
        seen.by_name.insert(name.clone(), Observation { version: version.into(), since: now.boot, order });
        Duration::ZERO
    }

    /// Forgets a lock that is ours or free.
    pub fn forget(&self, name: &LockName) {
        self.seen.lock().forget(name);
    }
}

impl ObservationIndex {
    fn forget(&mut self, name: &LockName) {
        if let Some(known) = self.by_name.remove(name) {
            self.by_age.remove(&known.order);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot: u64) -> ClockReading {
        ClockReading { boot: Duration::from_secs(boot), wall: Duration::from_secs(9_999) }
    }

    fn name(i: usize) -> LockName {
        LockName::new(i.to_string()).unwrap()
    }

    #[test]
    fn time_counts_from_the_first_sight_of_a_version() {
        let seen = Observations::new(10);
        assert_eq!(seen.unchanged_for(&name(1), "a", at(100)), Duration::ZERO);
        assert_eq!(seen.unchanged_for(&name(1), "a", at(130)), Duration::from_secs(30));
        assert_eq!(seen.unchanged_for(&name(1), "b", at(131)), Duration::ZERO, "a heartbeat");
        assert_eq!(seen.unchanged_for(&name(1), "b", at(132)), Duration::from_secs(1));
        seen.forget(&name(1));
        assert_eq!(seen.unchanged_for(&name(1), "b", at(140)), Duration::ZERO);
    }

    #[test]
    fn the_oldest_observation_makes_room() {
        let seen = Observations::new(3);
        for i in 0..10 {
            seen.unchanged_for(&name(i), "v", at(i as u64));
        }
        let inner = seen.seen.lock();
        assert_eq!((inner.by_name.len(), inner.by_age.len()), (3, 3));
        drop(inner);
        for version in ["w", "x", "y", "z"] {
            seen.unchanged_for(&name(9), version, at(9));
        }
        let inner = seen.seen.lock();
        assert_eq!((inner.by_name.len(), inner.by_age.len()), (3, 3), "heartbeats displace no other name");
        drop(inner);
        seen.unchanged_for(&name(9), "v", at(9));
        assert_eq!(seen.unchanged_for(&name(9), "v", at(19)), Duration::from_secs(10));
        assert_eq!(seen.unchanged_for(&name(1), "v", at(19)), Duration::ZERO, "long gone");
    }
}
