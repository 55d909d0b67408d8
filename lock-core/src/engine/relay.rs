//! Sends the release of a guard in one request with the acquire of the next waiter of this process.
//!
//! The guard offers its release together with its turn in the queue. The waiter makes the request,
//! and both await it, so that neither depends on the other one's task. The guard stays responsible
//! for its lease: if the request fails, it releases as usual. Until then the turn is its own too,
//! because an attempt meanwhile would see the lock of this process as another holder's.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot};

use crate::{
    backend::{AcquireOutcome, AcquireRequest, Backend, Relayed},
    mutex::Mutex,
    types::{Error, Lease},
};

/// A request that releases and acquires.
pub(crate) type RelayCall = Shared<BoxFuture<'static, Result<Relayed, Error>>>;

/// How long a waiter leaves the lock to another process that its request has woken. Without this
/// pause the waiter would ask before that process, and the tasks of one process would keep the
/// lock.
const GIVES_WAY: Duration = Duration::from_millis(1);

/// The release of the previous guard, on the side of the waiter.
#[derive(Debug)]
pub(crate) struct PendingRelease {
    /// `None` once the request is sent, or the guard has to release by itself.
    unsent: Option<Unsent>,
    /// The ttl of the lease, which ends by then if the guard does not run.
    pub(crate) ttl: Duration,
    /// Ends with the turn of the guard.
    ended: oneshot::Receiver<Infallible>,
}

/// A release that may still be sent with an acquire.
#[derive(Debug)]
pub(crate) struct Unsent {
    lease: Lease,
    sent: oneshot::Sender<RelayCall>,
}

/// The permit of a queue.
#[derive(Debug)]
pub(crate) enum Permit {
    Own(OwnPermit),
    /// The permit of a waiter and of the previous guard, which has not released yet. `None` once
    /// the waiter has the permit alone.
    Shared(Arc<Mutex<Option<OwnPermit>>>),
}

/// The permit of a semaphore, to which its drop returns it.
///
/// An `OwnedSemaphorePermit` costs a clone of the `Arc` for each try and for each wait.
#[derive(Debug)]
pub(crate) struct OwnPermit(Arc<Semaphore>);

impl OwnPermit {
    /// Returns the permit of `semaphore` if it is free.
    pub(crate) fn take(semaphore: &Arc<Semaphore>) -> Option<Self> {
        Some(Self::new(semaphore, semaphore.try_acquire().ok()?))
    }

    /// Waits for the permit of `semaphore`, which is never closed. Cancel safe.
    pub(crate) async fn wait(semaphore: &Arc<Semaphore>) -> Self {
        Self::new(semaphore, semaphore.acquire().await.expect("no queue closes its semaphore"))
    }

    fn new(semaphore: &Arc<Semaphore>, permit: SemaphorePermit<'_>) -> Self {
        permit.forget();
        Self(Arc::clone(semaphore))
    }
}

impl Drop for OwnPermit {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

impl Permit {
    pub(crate) fn shared(self) -> Self {
        match self {
            Self::Own(permit) => Self::Shared(Arc::new(Mutex::new(Some(permit)))),
            shared => shared,
        }
    }

    /// Returns another share of a shared permit.
    pub(crate) fn another(&self) -> Option<Self> {
        match self {
            Self::Own(_) => None,
            Self::Shared(permit) => Some(Self::Shared(Arc::clone(permit))),
        }
    }
}

/// A release that its guard offers to the next waiter.
#[derive(Debug)]
pub(crate) struct Offer {
    slot: Mutex<Slot>,
    /// Notified when a waiter has taken the release, and when one has left the queue.
    pub(crate) changed: Notify,
}

#[derive(Debug)]
struct Slot {
    /// `None` once a waiter has taken it.
    release: Option<PendingRelease>,
    /// The turn of the waiter that has taken the release. It ends once the guard has released too.
    turn: Option<Permit>,
}

impl Offer {
    pub(crate) fn new(release: PendingRelease) -> Arc<Self> {
        Arc::new(Self { slot: Mutex::new(Slot { release: Some(release), turn: None }), changed: Notify::new() })
    }

    /// Takes the release for a waiter, which shares its turn with the guard.
    pub(crate) fn accept(&self, turn: &mut Option<Permit>) -> Option<PendingRelease> {
        let mut slot = self.slot.lock();
        let release = slot.release.take()?;
        slot.turn = turn.take().map(Permit::shared);
        *turn = slot.turn.as_ref().and_then(Permit::another);
        drop(slot);
        self.changed.notify_one();
        Some(release)
    }

    /// Leaves the release to its guard. A waiter that has the turn waits for it.
    pub(crate) fn decline(&self) {
        let unsent = self.slot.lock().release.as_mut().and_then(PendingRelease::decline);
        drop(unsent);
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.slot.lock().release.is_none()
    }
}

/// The same release, on the side of the guard.
#[derive(Debug)]
pub(crate) struct Relaying {
    /// Brings the request of the waiter. Fails if the waiter sends none.
    pub(crate) sent: oneshot::Receiver<RelayCall>,
    /// To be dropped with the turn of the guard.
    pub(crate) ends: oneshot::Sender<Infallible>,
}

impl PendingRelease {
    pub(crate) fn new(lease: Lease) -> (Self, Relaying) {
        let (sender, sent) = oneshot::channel();
        let (ends, ended) = oneshot::channel();
        let ttl = lease.ttl;
        (Self { unsent: Some(Unsent { lease, sent: sender }), ttl, ended }, Relaying { sent, ends })
    }

    /// Leaves the release to the guard, once the result is dropped.
    pub(crate) fn decline(&mut self) -> Option<Unsent> {
        self.unsent.take()
    }

    /// Returns the call that releases and acquires. `None` if the release has been sent before, or
    /// is left to the guard.
    pub(crate) fn call(
        &mut self,
        backend: Arc<dyn Backend>,
        request: Arc<AcquireRequest>,
    ) -> Option<BoxFuture<'static, Result<AcquireOutcome, Error>>> {
        let Unsent { lease, sent } = self.unsent.take()?;
        let (store, next) = (Arc::clone(&backend), Arc::clone(&request));
        let relayed = async move { relay(&*store, &lease, &next).await }.boxed().shared();
        // The guard may have given up, and releases by itself.
        let _ = sent.send(relayed.clone());
        Some(Box::pin(async move {
            match relayed.await?.acquired {
                Some(answer) => answer,
                None => {
                    tokio::time::sleep(GIVES_WAY).await;
                    backend.acquire(&request).await
                }
            }
        }))
    }

    /// Returns `true` if the next attempt has to send the release.
    pub(crate) fn is_unsent(&self) -> bool {
        self.unsent.is_some()
    }

    /// Waits until the guard has released.
    pub(crate) async fn ended(self) {
        let _ = self.ended.await;
    }
}

async fn relay(backend: &dyn Backend, lease: &Lease, request: &AcquireRequest) -> Result<Relayed, Error> {
    match backend.relay() {
        Some(both) => both.relay(lease, request).await,
        None => backend.release(lease, Duration::ZERO).await.map(Relayed::released),
    }
}
