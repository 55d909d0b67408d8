//! Queues the waiters of one process for a name, first-in, first-out, so that the store sees one
//! contender per name.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    mutex::Mutex,
    types::{Holder, LockName, Process},
};

/// The queues of a `Locker`: one for each name that has a holder or a waiter.
#[derive(Debug, Default)]
pub(crate) struct Queues(Mutex<BTreeMap<LockName, Arc<Queue>>>);

#[derive(Debug)]
struct Queue {
    /// One permit, which tokio grants in the order of the requests.
    turn: Arc<Semaphore>,
    /// The lock of the turn is being released in the background.
    releasing: AtomicBool,
    /// Notified when a turn has ended.
    ended: Notify,
    holder: Mutex<Holder>,
}

impl Queues {
    fn map(&self) -> MutexGuard<'_, BTreeMap<LockName, Arc<Queue>>> {
        self.0.lock()
    }

    fn queue(self: &Arc<Self>, name: &LockName) -> Place {
        let mut map = self.map();
        let queue = map.entry(name.clone()).or_insert_with(|| Arc::new(Queue::new()));
        Place {
            queues: Arc::clone(self),
            name: name.clone(),
            queue: Some(Arc::clone(queue)),
            process: Process::current(),
        }
    }

    /// Takes the turn for `name` if it is free, or becomes free within `limit` because only a
    /// release in the background has it.
    pub(crate) async fn try_enter(self: &Arc<Self>, name: &LockName, limit: Duration) -> Option<Turn> {
        let place = self.queue(name);
        let take = |place: &Place| Arc::clone(&place.queue().turn).try_acquire_owned().ok();
        let permit = match take(&place) {
            Some(permit) => permit,
            None => {
                let queue = Arc::clone(place.queue());
                let mut ended = pin!(queue.ended.notified());
                ended.as_mut().enable();
                if !queue.releasing.load(Ordering::Relaxed) {
                    return None;
                }
                timeout(limit, ended).await.ok()?;
                // A waiter may have the turn now, and a try does not wait for it.
                take(&place)?
            }
        };
        Some(Turn { permit: Some(permit), place })
    }

    /// Queues for the turn. Cancel safe: dropping the future leaves the queue.
    pub(crate) async fn enter(self: &Arc<Self>, name: &LockName) -> Turn {
        let place = self.queue(name);
        let permit = Arc::clone(&place.queue().turn).acquire_owned().await.expect("no queue closes its semaphore");
        Turn { permit: Some(permit), place }
    }

    /// Returns the holder of `name` in this process, or the holder that the store last reported.
    pub(crate) fn holder(&self, name: &LockName) -> Holder {
        let map = self.map();
        map.get(name).map(|q| q.holder.lock().clone()).unwrap_or_default()
    }
}

impl Queue {
    fn new() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            releasing: AtomicBool::new(false),
            ended: Notify::new(),
            holder: Mutex::default(),
        }
    }
}

/// A place in a queue; the last one to leave removes the queue.
#[derive(Debug)]
struct Place {
    queues: Arc<Queues>,
    name: LockName,
    queue: Option<Arc<Queue>>,
    process: Process,
}

impl Place {
    fn queue(&self) -> &Arc<Queue> {
        self.queue.as_ref().expect("a place has its queue until it is dropped")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return;
        }
        let mut map = self.queues.map();
        drop(self.queue.take());
        // No other place has this queue, because clones are made under the same mutex.
        if map.get(&self.name).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            map.remove(&self.name);
        }
    }
}

/// The right to contend for a name; owned by the waiter, and then by its guard.
#[derive(Debug)]
pub(crate) struct Turn {
    permit: Option<OwnedSemaphorePermit>,
    place: Place,
}

impl Turn {
    /// Records the holder of the lock, for the waiters behind this one.
    pub(crate) fn note_holder(&self, holder: Holder) {
        *self.place.queue().holder.lock() = holder;
    }

    /// Records that a release in the background has the turn from now on.
    pub(crate) fn note_release(&self) {
        self.place.queue().releasing.store(true, Ordering::Relaxed);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Before the place is dropped, which may remove the queue.
        let permit = self.permit.take();
        if !self.place.process.is_current() {
            // It would wake a waiter of the parent.
            std::mem::forget(permit);
            return;
        }
        let queue = self.place.queue();
        queue.releasing.store(false, Ordering::Relaxed);
        drop(permit);
        queue.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_are_taken_in_order_and_queues_removed() {
        let queues = Arc::new(Queues::default());
        let name = LockName::new("n").unwrap();
        let first = queues.enter(&name).await;
        assert!(queues.try_enter(&name, Duration::MAX).await.is_none());
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiters = Vec::new();
        for i in 0..5 {
            let (queues, name, order) = (Arc::clone(&queues), name.clone(), Arc::clone(&order));
            waiters.push(tokio::spawn(async move {
                let _turn = queues.enter(&name).await;
                order.lock().push(i);
            }));
            tokio::task::yield_now().await;
        }
        drop(first);
        for waiter in waiters {
            waiter.await.unwrap();
        }
        assert_eq!(*order.lock(), [0, 1, 2, 3, 4]);
        assert!(queues.map().is_empty(), "the last waiter removes the queue");
    }
}
