//! Queues the waiters of one process for a name, first-in, first-out, so that the store sees one
//! contender per name.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    backend::AcquireRequest,
    engine::hand_over::{Offer, Parcel},
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
    /// One permit, which tokio grants in the order of the requests.
    turn: Arc<Semaphore>,
    /// How many wait for the turn.
    waiting: AtomicUsize,
    /// The lock of the turn is being released in the background.
    releasing: AtomicBool,
    /// Notified when a turn has ended.
    ended: Notify,
    holder: Mutex<KnownHolder>,
    /// The lease that the last turn handed over. An offer is not here longer than its turn is on
    /// its way, except one that was taken back.
    offer: Mutex<Option<Arc<Offer>>>,
}

/// The holder of a lock, as far as this process knows it.
#[derive(Debug)]
pub(crate) enum KnownHolder {
    /// The holder that the store reported.
    Reported(Holder),
    /// A guard of this process. Most guards are never asked for, so nothing is copied for them.
    Guard { request: Arc<AcquireRequest>, token: Option<FencingToken>, since: SystemTime },
}

impl KnownHolder {
    fn to_holder(&self) -> Holder {
        match self {
            Self::Reported(holder) => holder.clone(),
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
        let queue = map.entry(name.clone()).or_insert_with(|| Arc::new(Queue::new()));
        Place { queues: Arc::clone(self), name: name.clone(), queue: Some(Arc::clone(queue)), waits: false }
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

    /// Queues for the turn. Calls `behind` if another request has it. Cancel safe: dropping the
    /// future leaves the queue.
    pub(crate) async fn enter(self: &Arc<Self>, name: &LockName, behind: impl FnOnce()) -> Turn {
        let mut place = self.queue(name);
        let turn = Arc::clone(&place.queue().turn);
        // Takes no turn from those that wait: tokio keeps a permit for the first of them.
        let permit = match Arc::clone(&turn).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                place.set_waits(true);
                behind();
                turn.acquire_owned().await.expect("no queue closes its semaphore")
            }
        };
        place.set_waits(false);
        Turn { permit: Some(permit), place }
    }

    /// Returns the holder of `name` in this process, or the holder that the store last reported.
    pub(crate) fn holder(&self, name: &LockName) -> Holder {
        let map = self.map();
        map.get(name).map(|queue| queue.holder.lock().to_holder()).unwrap_or_default()
    }
}

impl Queue {
    fn new() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            waiting: AtomicUsize::new(0),
            releasing: AtomicBool::new(false),
            ended: Notify::new(),
            holder: Mutex::new(KnownHolder::Reported(Holder::default())),
            offer: Mutex::default(),
        }
    }
}

/// A place in a queue; the last one to leave removes the queue.
#[derive(Debug)]
struct Place {
    queues: Arc<Queues>,
    name: LockName,
    queue: Option<Arc<Queue>>,
    /// It is one of those that wait for the turn.
    waits: bool,
}

impl Place {
    fn queue(&self) -> &Arc<Queue> {
        self.queue.as_ref().expect("a place has its queue until it is dropped")
    }

    fn set_waits(&mut self, waits: bool) {
        if waits && !self.waits {
            self.queue().waiting.fetch_add(1, Ordering::Relaxed);
        } else if self.waits && !waits {
            self.queue().waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.waits = waits;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.queues.process.is_current() {
            return;
        }
        self.set_waits(false);
        if let Some(offer) = &*self.queue().offer.lock() {
            // Perhaps the last waiter has left, and the guard has to release its lease.
            offer.changed.notify_one();
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
    pub(crate) fn note_holder(&self, holder: KnownHolder) {
        *self.place.queue().holder.lock() = holder;
    }

    /// Records that a release in the background has the turn from now on.
    pub(crate) fn note_release(&self) {
        self.place.queue().releasing.store(true, Ordering::Relaxed);
    }

    /// Returns `true` if others wait in this queue. They may leave it at any time.
    pub(crate) fn has_waiters(&self) -> bool {
        self.place.queue().waiting.load(Ordering::Relaxed) > 0
    }

    /// Ends the turn, and offers a lease to the next one.
    pub(crate) fn offer(mut self, parcel: Parcel) -> Offered {
        let offer = Offer::new(parcel);
        *self.place.queue().offer.lock() = Some(Arc::clone(&offer));
        self.end();
        Offered { offer, turn: self }
    }

    /// Takes the lease that the turn before this one offers.
    pub(crate) fn accept(&self) -> Option<Parcel> {
        let offer = self.place.queue().offer.lock().take();
        offer.and_then(|offer| offer.take())
    }

    fn end(&mut self) {
        // Before the place is dropped, which may remove the queue.
        let Some(permit) = self.permit.take() else { return };
        if !self.place.queues.process.is_current() {
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

impl Drop for Turn {
    fn drop(&mut self) {
        self.end();
    }
}

/// An offer of a lease, and the turn that ended with it. The owner has to
/// [withdraw](Self::withdraw) it.
#[derive(Debug)]
pub(crate) struct Offered {
    offer: Arc<Offer>,
    turn: Turn,
}

/// How an offer ended.
#[derive(Debug)]
pub(crate) enum Handed {
    /// A waiter has the lease.
    Over,
    /// No waiter has taken the lease. With the turn, unless a waiter has that.
    Back(Option<Turn>),
}

impl Offered {
    /// Waits until a waiter has taken the lease, or no waiter is left.
    pub(crate) async fn settled(&mut self) {
        while !self.offer.is_taken() && !self.take_turn_back() {
            self.offer.changed.notified().await;
        }
    }

    /// Returns `true` if no waiter has the turn, which is that of the guard again.
    fn take_turn_back(&mut self) -> bool {
        if self.turn.permit.is_none() {
            self.turn.permit = Arc::clone(&self.turn.place.queue().turn).try_acquire_owned().ok();
        }
        self.turn.permit.is_some()
    }

    /// Ends the offer.
    pub(crate) fn withdraw(mut self) -> Handed {
        if self.offer.take().is_none() {
            return Handed::Over;
        }
        let has_turn = self.take_turn_back();
        Handed::Back(has_turn.then_some(self.turn))
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
