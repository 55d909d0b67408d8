//! What this backend holds, and the descriptors with which its waiters try.

use std::{
    collections::HashMap,
    fs::File,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lock_core::{FencingToken, Holder, LeaseId, LockName};
use metrics::{Gauge, gauge};

use crate::{key::Key, lockfile::LockFile, mount::Mount};

/// A lock that is held.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) lock: Arc<LockFile>,
    /// The record, open since it was written, so that the release marks this one and no successor's.
    pub(crate) record: File,
    pub(crate) token: FencingToken,
    /// A duplicate was given away, so closing ours may not be the last close of the file, which wakes waiters.
    pub(crate) lent: bool,
    /// What to add to this machine's clock for the store's, in microseconds.
    pub(crate) skew_us: i64,
    pub(crate) _counted: Counted,
}

/// What metrics of held locks are sorted by: limits are those of a mount, on which there may be several directories.
#[derive(Debug, Clone)]
pub(crate) struct Labels {
    directory: Arc<str>,
    mount: Arc<str>,
}

impl Labels {
    pub(crate) fn of(directory: &Path) -> Self {
        let mount = Mount::of(directory).ok().flatten().map_or_else(String::new, |mount| mount.point);
        Self { directory: directory.to_string_lossy().into(), mount: mount.into() }
    }

    fn gauge(&self) -> Gauge {
        let (directory, mount) = (Arc::clone(&self.directory), Arc::clone(&self.mount));
        gauge!("onelock_file_locks_held", "directory" => directory, "mount" => mount)
    }
}

/// Counts a held lock in the metrics, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Counted(Labels);

impl Counted {
    pub(crate) fn new(labels: &Labels) -> Self {
        labels.gauge().increment(1.0);
        Self(labels.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.gauge().decrement(1.0);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Table(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    held: HashMap<Key, Held>,
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

impl Table {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change below is a single step, so a panic cannot leave one half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many locks are held with it.
    pub(crate) fn insert(&self, key: Key, held: Held) -> usize {
        let mut inner = self.inner();
        inner.held.insert(key, held);
        inner.held.len()
    }

    pub(crate) fn remove(&self, key: &Key) -> Option<Held> {
        self.inner().held.remove(key)
    }

    pub(crate) fn with<T>(&self, key: &Key, f: impl FnOnce(&mut Held) -> T) -> Option<T> {
        self.inner().held.get_mut(key).map(f)
    }

    /// A parked descriptor, to try once with. Nobody else can try with it meanwhile, and so share its lock.
    pub(crate) fn unpark(&self, name: &LockName) -> Option<Parked> {
        let parked = self.inner().waiting.get_mut(name).and_then(|waiting| waiting.parked.pop());
        parked.or_else(|| self.take_refused(name))
    }

    /// The descriptor of the latest refusal, if that was for `name`.
    pub(crate) fn take_refused(&self, name: &LockName) -> Option<Parked> {
        self.inner().refused.take_if(|(refused, _)| refused == name).map(|(_, parked)| parked)
    }

    /// Keeps `parked` for the next try: as long as there is a watch for it, or else until the next refusal.
    pub(crate) fn park(&self, name: &LockName, parked: Parked) {
        let mut inner = self.inner();
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
    table: Arc<Table>,
    name: LockName,
}

impl Seat {
    pub(crate) fn take(table: &Arc<Table>, name: &LockName, parked: Parked) -> Self {
        table.inner().waiting.entry(name.clone()).or_default().watches += 1;
        table.park(name, parked);
        Self { table: Arc::clone(table), name: name.clone() }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.table.inner();
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
