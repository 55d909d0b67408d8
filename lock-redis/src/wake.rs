//! Waiting processes: each has one channel, and a queue per lock decides which process a release
//! wakes.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use lock_core::backend::LeaseId;
use redis::Value;
use tokio::sync::watch;

/// The locks that this process waits for, by key.
#[derive(Debug)]
pub(crate) struct Wakers {
    channel: String,
    waiting: Mutex<HashMap<String, LocalWaiters>>,
    /// Locks for which this process may still be queued, or was woken, although it stopped waiting.
    unwanted: Mutex<HashSet<String>>,
}

/// The waiters of this process for one lock.
#[derive(Debug)]
struct LocalWaiters {
    watches: usize,
    /// When the process began to wait, by the server's clock. This is its place in the queue, which
    /// it keeps after an unused wake-up.
    place: Option<String>,
    standing: Standing,
    changes: watch::Sender<()>,
}

/// The last known position of this process in the server's queue of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Not queued.
    Out,
    /// Queued.
    Queued,
    /// Removed from the queue and woken, as the only process; or the reply to a request to join is
    /// outstanding.
    Unsure,
}

/// What a waiting process tells the server with its acquire.
#[derive(Debug)]
pub(crate) struct Queuing<'a> {
    pub(crate) channel: &'a str,
    /// Empty if the process has no place yet.
    pub(crate) place: String,
    /// Whether this process has no other waiter once the lock is granted.
    pub(crate) alone: bool,
}

impl Wakers {
    pub(crate) fn new() -> Self {
        let channel = format!("onelock:wake:{}", LeaseId::random());
        Self { channel, waiting: Mutex::default(), unwanted: Mutex::default() }
    }

    /// The channel on which this process is woken.
    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    pub(crate) fn anybody_waits(&self) -> bool {
        !self.map().is_empty()
    }

    /// Describes how this process waits for `lock`. `None` if it does not wait.
    pub(crate) fn queuing(&self, lock: &str) -> Option<Queuing<'_>> {
        self.map().get(lock).map(|waiting| Queuing {
            channel: &self.channel,
            place: waiting.place.clone().unwrap_or_default(),
            alone: waiting.watches == 1,
        })
    }

    /// Records the effect of a reply.
    pub(crate) fn note(&self, lock: &str, standing: Standing, place: Option<String>) {
        if let Some(waiting) = self.map().get_mut(lock) {
            waiting.standing = standing;
            waiting.place = waiting.place.take().or(place);
        }
    }

    pub(crate) fn wake_all(&self) {
        for waiting in self.map().values() {
            waiting.changes.send_replace(());
        }
    }

    /// Handles a wake-up, whose payload is the key of a free lock.
    pub(crate) fn received(&self, data: &[Value]) {
        let [_, Value::BulkString(lock)] = data else { return };
        let Ok(lock) = std::str::from_utf8(lock) else { return };
        if let Some(waiting) = self.map().get_mut(lock) {
            waiting.standing = Standing::Unsure;
            waiting.changes.send_replace(());
            return;
        }
        // The id of a fair request follows the key, which ends in a brace.
        self.not_wanted(lock.rsplit_once(' ').map_or(lock, |(key, _)| if key.ends_with('}') { key } else { lock }));
        // A woken waiter passes the wake-up on.
        self.wake_all();
    }

    /// Notes a lock that this process must tell the server it no longer waits for.
    pub(crate) fn not_wanted(&self, lock: &str) {
        self.unwanted().insert(lock.to_owned());
    }

    /// Takes the locks that this process must tell the server it no longer waits for.
    pub(crate) fn take_unwanted(&self) -> Vec<String> {
        let unwanted = std::mem::take(&mut *self.unwanted());
        unwanted.into_iter().filter(|lock| !self.map().contains_key(lock)).collect()
    }

    pub(crate) fn is_queued(&self, lock: &str) -> bool {
        self.map().get(lock).is_some_and(|waiting| waiting.standing == Standing::Queued)
    }

    pub(crate) fn add(&self, lock: &str) -> watch::Receiver<()> {
        match self.map().entry(lock.to_owned()) {
            Entry::Occupied(mut entry) => {
                entry.get_mut().watches += 1;
                entry.get().changes.subscribe()
            }
            Entry::Vacant(entry) => {
                let (changes, receiver) = watch::channel(());
                entry.insert(LocalWaiters { watches: 1, place: None, standing: Standing::Out, changes });
                receiver
            }
        }
    }

    /// Removes a watch. Returns whether it was the last watch of `lock` and the server must be
    /// told.
    pub(crate) fn remove(&self, lock: &str) -> bool {
        let mut map = self.map();
        let Some(waiting) = map.get_mut(lock) else { return false };
        waiting.watches -= 1;
        waiting.watches == 0 && map.remove(lock).is_some_and(|waiting| waiting.standing != Standing::Out)
    }

    fn map(&self) -> MutexGuard<'_, HashMap<String, LocalWaiters>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unwanted(&self) -> MutexGuard<'_, HashSet<String>> {
        self.unwanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
