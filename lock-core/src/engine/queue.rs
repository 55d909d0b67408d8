//! Queues the waiters of one process for a name, first-in, first-out, so that the store sees one
//! contender per name.

mod offered;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    pin::pin,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, Semaphore, oneshot},
    time::timeout,
};

pub(crate) use self::offered::Offered;
use crate::{
    backend::AcquireRequest,
    engine::{
        hand_over::QueuedLease,
        relay::{Offer, OwnPermit, PendingRelease, Permit},
        stand_back::Others,
    },
    mutex::Mutex,
    types::{FencingToken, Holder, LockName, Process},
};

/// The queues of a `Locker`: one for each name that has a holder or a waiter.
#[derive(Debug)]
pub(crate) struct Queues {
    by_name: Mutex<BTreeMap<LockName, Arc<Queue>>>,
    process: Process,
}

#[derive(Debug)]
struct Queue {
    name: LockName,
    /// One permit, which tokio grants in the order of the requests.
    turn: Arc<Semaphore>,
    /// How many requests have a place. The number rises only under the mutex of the map.
    places: AtomicUsize,
    /// How many requests wait for the turn.
    waiting: AtomicUsize,
    /// The lock of the turn is being released in the background.
    releasing: AtomicBool,
    /// Notified when a turn has ended.
    ended: Notify,
    holder: Mutex<Option<KnownHolder>>,
    /// Empty unless a turn has ended and the next waiter was not polled since.
    left: Mutex<Left>,
    others: Mutex<Others>,
}

/// The lease or the release that a turn left to the next one.
#[derive(Debug, Default)]
struct Left {
    queued: Option<QueuedLease>,
    /// The renewer releases the lease if no waiter takes it in time.
    watched: bool,
    /// A release that the guard offers, or has withdrawn.
    offer: Option<Arc<Offer>>,
}

/// The lease or the release that a waiter takes from the previous guard.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// Its lease.
    Lease(QueuedLease),
    /// The request that releases its lease.
    Release(PendingRelease),
}

/// The holder of a lock, as far as this process knows it.
#[derive(Debug)]
pub(crate) enum KnownHolder {
    /// The holder that the store reported. In a box, because most locks have no contender.
    Reported(Box<Holder>),
    /// A guard of this process. Most guards are never shown to a waiter, so nothing is copied.
    Guard { request: Arc<AcquireRequest>, token: Option<FencingToken>, since: SystemTime },
}

impl KnownHolder {
    fn to_holder(&self) -> Holder {
        match self {
            Self::Reported(holder) => Holder::clone(holder),
            Self::Guard { request, token, since } => {
                Holder { owner: Some(request.owner.clone()), token: *token, since: Some(*since), ..Holder::default() }
            }
        }
    }
}

impl Queues {
    pub(crate) fn new(process: Process) -> Self {
        Self { by_name: Mutex::default(), process }
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<LockName, Arc<Queue>>> {
        self.by_name.lock()
    }

    fn queue(self: &Arc<Self>, name: &LockName) -> Place {
        let mut map = self.map();
        let queue = match map.get(name) {
            Some(queue) => Arc::clone(queue),
            None => Arc::clone(map.entry(name.clone()).or_insert(Arc::new(Queue::new(name.clone())))),
        };
        queue.places.fetch_add(1, Ordering::Relaxed);
        Place { queues: Arc::clone(self), queue, waits: false }
    }

    /// Takes the turn for `name` if it is free, or becomes free within `limit` because only a
    /// release in the background has it.
    pub(crate) async fn try_enter(self: &Arc<Self>, name: &LockName, limit: Duration) -> Option<Turn> {
        let place = self.queue(name);
        let permit = match OwnPermit::take(&place.queue.turn) {
            Some(permit) => permit,
            None => {
                let queue = Arc::clone(&place.queue);
                let mut ended = pin!(queue.ended.notified());
                ended.as_mut().enable();
                if !queue.releasing.load(Ordering::Relaxed) {
                    return None;
                }
                timeout(limit, ended).await.ok()?;
                // A waiter may have the turn now, and a try does not wait for it.
                OwnPermit::take(&place.queue.turn)?
            }
        };
        Some(Turn::new(permit, place))
    }

    /// Queues for the turn. Calls `behind` if another request has it. Cancel safe: dropping the
    /// future leaves the queue.
    pub(crate) async fn enter(self: &Arc<Self>, name: &LockName, behind: impl FnOnce()) -> Turn {
        let mut place = self.queue(name);
        // Takes no turn from those that wait: tokio keeps a permit for the first of them.
        let permit = match OwnPermit::take(&place.queue.turn) {
            Some(permit) => permit,
            None => {
                place.set_waits(true);
                behind();
                OwnPermit::wait(&place.queue.turn).await
            }
        };
        place.set_waits(false);
        Turn::new(permit, place)
    }

    /// Returns the holder of `name` in this process, or the holder that the store last reported.
    pub(crate) fn holder(&self, name: &LockName) -> Holder {
        let map = self.map();
        map.get(name).and_then(|queue| queue.holder.lock().as_ref().map(KnownHolder::to_holder)).unwrap_or_default()
    }
}

impl Queue {
    fn new(name: LockName) -> Self {
        Self {
            name,
            turn: Arc::new(Semaphore::new(1)),
            places: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            releasing: AtomicBool::new(false),
            ended: Notify::new(),
            holder: Mutex::default(),
            left: Mutex::default(),
            others: Mutex::default(),
        }
    }
}

/// A place in a queue; the last one to leave removes the queue.
#[derive(Debug)]
struct Place {
    queues: Arc<Queues>,
    queue: Arc<Queue>,
    /// It is one of those that wait for the turn.
    waits: bool,
}

impl Place {
    fn set_waits(&mut self, waits: bool) {
        if waits && !self.waits {
            self.queue.waiting.fetch_add(1, Ordering::Relaxed);
        } else if self.waits && !waits {
            self.queue.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.waits = waits;
    }
}

impl Place {
    /// Releases a lease that was handed over if no waiter is left to take it.
    fn release_what_is_left(&self) {
        let queue = &self.queue;
        // The place that returns the turn later looks again.
        if queue.turn.available_permits() == 0 {
            return;
        }
        {
            let left = queue.left.lock();
            if let Some(offer) = &left.offer {
                // Perhaps the last waiter has left, and the guard has to release its lease.
                offer.changed.notify_one();
            }
            if left.queued.is_none() {
                return;
            }
        }
        // A waiter that has the turn takes the lease.
        let Some(permit) = OwnPermit::take(&queue.turn) else { return };
        let turn = Turn::new(permit, self.queues.queue(&queue.name));
        let queued = queue.left.lock().queued.take();
        if let Some(queued) = queued {
            queued.give_back(Some(turn));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.queues.process.is_current() {
            return;
        }
        self.set_waits(false);
        self.release_what_is_left();
        if self.queue.places.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        // A place may have been added meanwhile, or even another queue.
        let mut map = self.queues.map();
        let is_empty =
            |queue: &Arc<Queue>| Arc::ptr_eq(queue, &self.queue) && queue.places.load(Ordering::Acquire) == 0;
        if map.get(&self.queue.name).is_some_and(is_empty) {
            map.remove(&self.queue.name);
        }
    }
}

/// The right to contend for a name; owned by the waiter, and then by its guard.
#[derive(Debug)]
pub(crate) struct Turn {
    permit: Option<Permit>,
    place: Place,
    /// The release that this turn has offered to the next one. A permit that both share is in it.
    offered: Option<(Arc<Offer>, oneshot::Sender<Infallible>)>,
}

impl Turn {
    fn new(permit: OwnPermit, place: Place) -> Self {
        Self { permit: Some(Permit::Own(permit)), place, offered: None }
    }

    /// Records the holder of the lock, for the waiters behind this one.
    pub(crate) fn note_holder(&self, holder: KnownHolder) {
        *self.place.queue.holder.lock() = Some(holder);
    }

    /// Records that the next guard has the lock of the known one.
    pub(crate) fn note_next_guard(&self, next: Option<FencingToken>, from: SystemTime) {
        if let Some(KnownHolder::Guard { token, since, .. }) = &mut *self.place.queue.holder.lock() {
            (*token, *since) = (next, from);
        }
    }

    /// Records that a release in the background has the turn from now on, unless a waiter has it
    /// too.
    pub(crate) fn note_release(&self) {
        if self.offered.is_none() {
            self.place.queue.releasing.store(true, Ordering::Relaxed);
        }
    }

    /// Returns `true` if others wait in this queue. They may leave it at any time.
    pub(crate) fn has_waiters(&self) -> bool {
        self.waiters() > 0
    }

    /// Returns how many others wait in this queue.
    pub(crate) fn waiters(&self) -> usize {
        self.place.queue.waiting.load(Ordering::Relaxed)
    }

    /// Calls `f` with what this process knows of other processes that use the lock.
    pub(crate) fn with_others<T>(&self, f: impl FnOnce(&mut Others) -> T) -> T {
        f(&mut self.place.queue.others.lock())
    }

    /// Ends the turn, and leaves a lease to the next one.
    pub(crate) fn pass(mut self, queued: QueuedLease) {
        let queue = &self.place.queue;
        let mut left = queue.left.lock();
        let begins = !std::mem::replace(&mut left.watched, true);
        let renewer = begins.then(|| queued.renewer());
        left.queued = Some(queued);
        drop(left);
        if let Some(renewer) = renewer {
            renewer.watch(LeaseLeft(Arc::clone(queue)));
        }
        self.end();
    }

    /// Takes what the previous turn left.
    pub(crate) fn accept(&mut self) -> Option<Accepted> {
        let mut left = self.place.queue.left.lock();
        if let Some(queued) = left.queued.take() {
            return Some(Accepted::Lease(queued));
        }
        let offer = left.offer.take()?;
        drop(left);
        offer.accept(&mut self.permit).map(Accepted::Release)
    }

    fn end(&mut self) {
        // Before the place is dropped, which may remove the queue.
        let (permit, offered) = (self.permit.take(), self.offered.take());
        if permit.is_none() && offered.is_none() {
            return;
        }
        if !self.place.queues.process.is_current() {
            // It would wake a waiter of the parent.
            std::mem::forget((permit, offered));
            return;
        }
        let queue = &self.place.queue;
        let releasing = queue.releasing.load(Ordering::Relaxed);
        queue.releasing.store(false, Ordering::Relaxed);
        drop((permit, offered));
        // Only a release in the background is awaited.
        if releasing {
            queue.ended.notify_waiters();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.end();
    }
}

/// A queue in which the lease of a guard waits for the next one.
#[derive(Debug)]
pub(crate) struct LeaseLeft(Arc<Queue>);

impl LeaseLeft {
    /// Returns the rest of the time in which a waiter has to take the lease. `None` if there is no
    /// lease. Releases a lease that no waiter took in time.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let mut left = self.0.left.lock();
        let time_left = left.queued.as_ref().map(QueuedLease::time_left).filter(|time_left| !time_left.is_zero());
        left.watched = time_left.is_some();
        let late = if left.watched { None } else { left.queued.take() };
        // Its drop releases the lease, which must not happen under the mutex.
        drop(left);
        drop(late);
        time_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_are_taken_in_order_and_queues_removed() {
        let queues = Arc::new(Queues::new(Process::current()));
        let name = LockName::new("n").unwrap();
        let first = queues.enter(&name, || {}).await;
        assert!(queues.try_enter(&name, Duration::MAX).await.is_none());
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiters = Vec::new();
        for i in 0..5 {
            let (queues, name, order) = (Arc::clone(&queues), name.clone(), Arc::clone(&order));
            waiters.push(tokio::spawn(async move {
                let _turn = queues.enter(&name, || {}).await;
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
