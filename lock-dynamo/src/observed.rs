//! What this process has seen of other people's locks: a version that stays the same for a whole lease belongs to a dead holder.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lock_core::{LockName, clock::ClockReading};

/// Remembers since when each lock has had its version. Bounded: the oldest observation goes first, and costs a dead holder's
/// lock one more lease of waiting.
#[derive(Debug)]
pub(crate) struct Observations {
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
    /// Time since boot. Not the larger of two clocks, as holders use: they err towards later, and observers must not.
    since: Duration,
    order: u64,
}

impl Observations {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, seen: Mutex::default() }
    }

    /// For how long `name` has had this version, as far as we know.
    pub(crate) fn unchanged_for(&self, name: &LockName, version: &str, now: ClockReading) -> Duration {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Forgets about a lock that is ours or free.
    pub(crate) fn forget(&self, name: &LockName) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).forget(name);
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
        let inner = seen.seen.lock().unwrap();
        assert_eq!((inner.by_name.len(), inner.by_age.len()), (3, 3));
        drop(inner);
        for version in ["w", "x", "y", "z"] {
            seen.unchanged_for(&name(9), version, at(9));
        }
        let inner = seen.seen.lock().unwrap();
        assert_eq!((inner.by_name.len(), inner.by_age.len()), (3, 3), "heartbeats push nobody out");
        drop(inner);
        seen.unchanged_for(&name(9), "v", at(9));
        assert_eq!(seen.unchanged_for(&name(9), "v", at(19)), Duration::from_secs(10));
        assert_eq!(seen.unchanged_for(&name(1), "v", at(19)), Duration::ZERO, "long gone");
    }
}
