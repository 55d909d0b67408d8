//! What this process remembers of its own writes, so that a renewal and a release are one request.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
};

use lock_core::{LockName, backend::LeaseId};

use crate::{record::Record, store::Tag};

/// How many leases and released locks a process remembers.
const MOST: usize = 10_000;

/// An object as it was last seen or written.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) tag: Tag,
    pub(crate) record: Record,
}

/// What is known of a lease.
#[derive(Debug, Clone)]
pub(crate) enum LeaseWrites {
    /// A request to acquire that has no reply yet. It takes effect only on this version of the
    /// object (none: if there is no object), and then writes `record`.
    Unanswered { on: Option<Tag>, record: Box<Record> },
    /// The latest confirmed write.
    Confirmed(Box<Version>),
}

/// A map that forgets its oldest entry when it is full. A forgotten entry costs a request.
#[derive(Debug)]
pub(crate) struct Recent<K, V>(Mutex<Entries<K, V>>);

#[derive(Debug)]
struct Entries<K, V> {
    map: HashMap<K, (u64, V)>,
    next: u64,
}

pub(crate) type Leases = Recent<LeaseId, LeaseWrites>;
pub(crate) type FreeLocks = Recent<LockName, Version>;

impl<K: Hash + Eq + Clone, V: Clone> Recent<K, V> {
    pub(crate) fn put(&self, key: K, value: V) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.map.len() >= MOST && !entries.map.contains_key(&key) {
            let oldest = entries.map.iter().min_by_key(|(_, (order, _))| *order).map(|(key, _)| key.clone());
            oldest.map(|oldest| entries.map.remove(&oldest));
        }
        let order = entries.next;
        entries.next += 1;
        entries.map.insert(key, (order, value));
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.map.get(key).map(|(_, value)| value.clone())
    }

    /// Restores what was known before a [`put`](Self::put).
    pub(crate) fn put_back(&self, key: K, before: Option<V>) {
        match before {
            Some(before) => self.put(key, before),
            None => drop(self.take(&key)),
        }
    }

    pub(crate) fn take(&self, key: &K) -> Option<V> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.map.remove(key).map(|(_, value)| value)
    }
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self(Mutex::new(Entries { map: HashMap::new(), next: 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entry_makes_room() {
        let recent = Recent::default();
        for i in 0..=MOST {
            recent.put(i, i);
        }
        assert_eq!((recent.get(&0), recent.get(&1), recent.take(&MOST)), (None, Some(1), Some(MOST)));
        assert_eq!(recent.get(&MOST), None);
    }
}
