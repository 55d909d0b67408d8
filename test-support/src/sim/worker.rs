//! The work of a client. It acquires locks, works under them, and releases them, in every way that
//! the interface has.

use std::{
    num::NonZeroU16,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lock_core::{Guard, LockRequest, Locker, Renew, TryAcquire};
use lock_history::{Event, EventKind, Mode};
use tokio::time::{sleep, timeout};

use super::{
    clock::WorldTime,
    messages::Write,
    wire::{Outbox, Outgoing, send},
};

/// The history, to which all workers add their events.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    pub(super) time: WorldTime,
    pub(super) events: Arc<Mutex<Vec<Event>>>,
}

impl Journal {
    pub(super) fn note(&self, worker: u64, name: &Arc<str>, kind: EventKind) {
        let event = Event { at: self.time.now(), worker, name: Arc::clone(name), kind };
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

/// What the workers of a simulation ask for, beside exclusive locks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Load {
    /// Shared locks and permits.
    pub(super) modes: bool,
    /// Places in the queue of the store. Without it, locks are handed over.
    pub(super) fair: bool,
}

/// How many permits a name has.
const PERMITS: NonZeroU16 = NonZeroU16::new(2).expect("it is not zero");

/// Returns the mode as the history has it.
pub(super) fn mode_of(mode: lock_core::Mode) -> Mode {
    match mode {
        lock_core::Mode::Shared => Mode::Shared,
        lock_core::Mode::Permit { of } => Mode::Permit { of: of.get() },
        _ => Mode::Exclusive,
    }
}

/// Returns the number of the worker whose request has this owner.
pub(super) fn worker_of(owner: &str) -> u64 {
    let number = owner.strip_prefix('w').and_then(|rest| rest.split('#').next()?.parse().ok());
    number.expect("the owner of a fair request names its worker")
}

type Held = Option<(Arc<str>, Arc<Guard>)>;

/// The current guard of a worker, which the world can check.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) worker: u64,
    pub(super) guard: Arc<Mutex<Held>>,
}

impl Slot {
    pub(super) fn new(worker: u64) -> Self {
        Self { worker, guard: Arc::default() }
    }

    fn set(&self, guard: Held) {
        *self.guard.lock().unwrap_or_else(PoisonError::into_inner) = guard;
    }

    /// Returns the name of the guard, if the guard is valid at this instant.
    pub(super) fn believes(&self) -> Option<Arc<str>> {
        let guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        guard.as_ref().filter(|(_, guard)| guard.check().is_ok()).map(|(name, _)| Arc::clone(name))
    }
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) slot: Slot,
    pub(super) locker: Locker,
    pub(super) names: Vec<Arc<str>>,
    pub(super) journal: Journal,
    pub(super) outbox: Outbox,
    pub(super) rng: fastrand::Rng,
    pub(super) load: Load,
}

impl Worker {
    /// Works forever.
    pub(super) async fn work(mut self) {
        for round in 0_u64.. {
            // A lock is handed over only between requests of one owner, and to a task that waits.
            let owned = self.rng.bool();
            if owned {
                let pause = self.random(0, 300);
                sleep(pause).await;
            }
            let name = Arc::clone(&self.names[self.rng.usize(..self.names.len())]);
            let owner = owned.then(|| format!("w{}#{round}", self.slot.worker));
            self.note(&name, EventKind::Attempt { owner: owner.clone() });
            let mode = self.mode();
            match self.acquire(&name, mode, owner).await {
                Some(guard) => self.hold(&name, mode, guard).await,
                None => self.note(&name, EventKind::GaveUp),
            }
        }
    }

    fn note(&self, name: &Arc<str>, kind: EventKind) {
        self.journal.note(self.slot.worker, name, kind);
    }

    fn random(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        Duration::from_millis(self.rng.u64(from_ms..to_ms))
    }

    fn mode(&mut self) -> lock_core::Mode {
        match self.load.modes.then(|| self.rng.u8(..4)) {
            Some(0 | 1) => lock_core::Mode::Shared,
            Some(2) => lock_core::Mode::Permit { of: PERMITS },
            _ => lock_core::Mode::Exclusive,
        }
    }

    fn request(&mut self, name: &Arc<str>, mode: lock_core::Mode, owner: Option<String>) -> LockRequest {
        let (journal, worker, refused) = (self.journal.clone(), self.slot.worker, Arc::clone(name));
        let request = self.locker.lock(&**name).mode(mode).on_contention(move |holder| {
            journal.note(worker, &refused, EventKind::Refused { owner: holder.owner.clone() });
        });
        let Some(owner) = owner else {
            // A lock that is handed over passes the queue.
            let hand_over = if self.load.fair { 0 } else { 4 };
            return request.owner("shared").ttl(Duration::from_secs(2)).hand_over(hand_over);
        };
        let request = if self.load.fair { request.fair(self.rng.bool()) } else { request };
        let renew = if self.rng.u8(..4) == 0 { Renew::Manual } else { Renew::Auto };
        request.owner(owner).ttl(self.random(800, 3_000)).renew(renew)
    }

    /// Acquires in a way that is chosen at random. The last way is dropped at any point.
    async fn acquire(&mut self, name: &Arc<str>, mode: lock_core::Mode, owner: Option<String>) -> Option<Guard> {
        let request = self.request(name, mode, owner);
        let way = self.rng.u8(..4);
        let patience = self.random(1, 8_000);
        let outcome = match way {
            0 => request.try_acquire().await,
            1 | 2 => request.acquire_within(patience).await,
            _ => timeout(patience, request.acquire()).await.ok()?.map(TryAcquire::Acquired),
        };
        match outcome {
            Ok(TryAcquire::Acquired(guard)) => Some(guard),
            Ok(TryAcquire::Contended(_)) | Err(_) => None,
        }
    }

    async fn hold(&mut self, name: &Arc<str>, mode: lock_core::Mode, guard: Guard) {
        if guard.check().is_err() {
            // The guard ended between the grant and this check.
            self.note(name, EventKind::GaveUp);
            return;
        }
        let (token, guard) = (guard.token().map(lock_core::FencingToken::get), Arc::new(guard));
        // The world checks the guard itself to find out how long it is valid.
        self.note(name, EventKind::Granted { token, until: Some(self.journal.time.now()), mode: mode_of(mode) });
        self.slot.set(Some((Arc::clone(name), Arc::clone(&guard))));
        self.use_it(name, &guard, token.unwrap_or_default()).await;
        self.note(name, if guard.check().is_ok() { EventKind::Released } else { EventKind::Lost { told: false } });
        self.slot.set(None);
        let guard = Arc::into_inner(guard).expect("the slot had the only other reference");
        if self.rng.u8(..4) == 0 {
            drop(guard);
        } else {
            // The answer of the store is not checked here.
            let _ = guard.release().await;
        }
    }

    /// Writes to the protected resource a few times, or until the lock is lost. One in four workers
    /// does not check the guard before it writes.
    async fn use_it(&mut self, name: &Arc<str>, guard: &Guard, token: u64) {
        let careless = self.rng.u8(..4) == 0;
        let writes = self.rng.u64(0..6);
        let step = if self.rng.u8(..4) == 0 { 1_500 } else { 200 };
        for _ in 0..writes {
            let pause = self.random(1, step);
            if timeout(pause, guard.lost()).await.is_ok() && !careless {
                return;
            }
            // Does nothing if no renewal is due, or if the core renews in the background.
            let _ = guard.renew_if_below(Duration::from_millis(300)).await;
            if careless || guard.check().is_ok() {
                let write = Write { worker: self.slot.worker, name: Arc::clone(name), token };
                send(&self.outbox, Outgoing::Write(write));
            }
        }
    }
}
