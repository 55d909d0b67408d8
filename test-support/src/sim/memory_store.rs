//! The memory backend as the store of a simulation: all modes, and a queue of fair requests.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use lock_core::{
    FencingToken, Holder, Mode,
    backend::{AcquireOutcome, AcquireRequest, Backend as _, Lease, LeaseId, Release},
    memory::MemoryBackend,
};
use lock_history::{Event, EventKind};
use tokio::{
    runtime::{Builder, Runtime},
    time::advance,
};

use super::{
    Mistake,
    messages::{Reply, Request},
    worker::{mode_of, worker_of},
};

/// The store, on a clock that shows the world's time.
#[derive(Debug)]
pub(super) struct MemoryStore {
    runtime: Runtime,
    backend: MemoryBackend,
    mistake: Option<Mistake>,
    at: Duration,
    /// The requests that had a place in the queue: its number, and the worker and the mode.
    places: HashMap<LeaseId, Queued>,
    /// The ids that were released. A late request of one of them is refused and has no place.
    released: HashSet<LeaseId>,
    /// The tokens of a store that reserves none.
    tokens: HashMap<LeaseId, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Queued {
    number: u64,
    worker: u64,
    mode: lock_history::Mode,
}

impl MemoryStore {
    pub(super) fn new(mistake: Option<Mistake>) -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let backend = runtime.block_on(async { MemoryBackend::new() });
        Self {
            runtime,
            backend,
            mistake,
            at: Duration::ZERO,
            places: HashMap::new(),
            released: HashSet::new(),
            tokens: HashMap::new(),
        }
    }

    /// Answers a request that arrives at `at`.
    pub(super) fn handle(&mut self, at: Duration, request: &Request) -> Reply {
        let passed = at.saturating_sub(self.at);
        self.at += passed;
        let reply = self.runtime.block_on(async {
            advance(passed).await;
            match request {
                Request::Acquire { claim, .. } => Reply::Attempt(self.acquire(claim).await),
                Request::Renew(lease) => Reply::Renewal(self.backend.renew(lease).await.expect("it always answers")),
                Request::Release(lease) => Reply::Release(self.release(lease).await),
                Request::Call(call) => unreachable!("a call is for a server: {call:?}"),
            }
        });
        match (reply, request) {
            (Reply::Attempt(AcquireOutcome::Granted(grant)), Request::Acquire { claim, .. })
                if self.mistake == Some(Mistake::ReservesNoTokens) =>
            {
                let grant = grant.with_token(self.counted(claim.id));
                Reply::Attempt(AcquireOutcome::Granted(grant))
            }
            (reply, _) => reply,
        }
    }

    /// Returns a token that counts the grants, whatever was reserved.
    fn counted(&mut self, id: LeaseId) -> Option<FencingToken> {
        const FIRST: u64 = 1_000_000;
        let next = FIRST + self.tokens.len() as u64;
        FencingToken::new(*self.tokens.entry(id).or_insert(next))
    }

    async fn acquire(&self, claim: &AcquireRequest) -> AcquireOutcome {
        let claim = match (self.mistake, claim.mode) {
            (Some(Mistake::IgnoresQueue), _) => claim.clone().with_fair(false),
            (Some(Mistake::WriterAmongReaders), Mode::Exclusive) => claim.clone().with_mode(Mode::Shared),
            (Some(Mistake::OnePermitMore), Mode::Permit { of }) => {
                claim.clone().with_mode(Mode::Permit { of: of.saturating_add(1) })
            }
            _ => claim.clone(),
        };
        let outcome = self.backend.acquire(&claim).await.expect("all requests agree on the number of permits");
        match outcome {
            AcquireOutcome::Granted(grant)
                if grant.already_ours && self.mistake == Some(Mistake::OwnLockTakenForForeign) =>
            {
                AcquireOutcome::Contended(Holder::default().with_owner(claim.owner))
            }
            outcome => with_version(outcome),
        }
    }

    async fn release(&self, lease: &Lease) -> Release {
        let released = self.backend.release(lease, Duration::ZERO).await.expect("it always answers");
        let ends_all = match self.mistake {
            Some(Mistake::ReleaseWithoutComparison) => matches!(released, Release::NotHeld(_)),
            Some(Mistake::ReleaseOfAllParts) => matches!(released, Release::Released),
            _ => false,
        };
        if ends_all {
            self.backend.lose(lease.name.as_str());
        }
        released
    }

    /// Returns what `request`, which arrived at `at`, and its reply say about a place in the queue.
    pub(super) fn place(&mut self, at: Duration, request: &Request, reply: &Reply) -> Option<Event> {
        let (queued, name, until) = match (request, reply) {
            (Request::Acquire { claim, .. }, Reply::Attempt(AcquireOutcome::Contended(_)))
                if claim.fair && claim.waits && !self.released.contains(&claim.id) =>
            {
                let number = self.places.len() as u64;
                let new = || Queued { number, worker: worker_of(&claim.owner), mode: mode_of(claim.mode) };
                (*self.places.entry(claim.id).or_insert_with(new), &claim.name, at + claim.ttl)
            }
            (Request::Release(lease), _) => {
                self.released.insert(lease.id);
                (*self.places.get(&lease.id)?, &lease.name, at)
            }
            _ => return None,
        };
        let Queued { number: place, worker, mode } = queued;
        Some(Event { at, worker, name: name.as_str().into(), kind: EventKind::Queued { place, mode, until } })
    }
}

/// Adds the version of the holder to its owner. An attempt may begin anew under another id, and
/// then rightly meets what is left of the first.
fn with_version(outcome: AcquireOutcome) -> AcquireOutcome {
    let AcquireOutcome::Contended(mut holder) = outcome else { return outcome };
    holder.owner = holder.owner.map(|owner| format!("{owner}, {:?}", holder.version));
    AcquireOutcome::Contended(holder)
}
