//! The memory backend as the store of a simulation: all modes, and a queue of fair requests.

use std::{collections::HashMap, time::Duration};

use lock_core::{
    backend::{AcquireOutcome, Backend as _, LeaseId},
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
        Self { runtime, backend, mistake, at: Duration::ZERO, places: HashMap::new() }
    }

    /// Answers a request that arrives at `at`.
    pub(super) fn handle(&mut self, at: Duration, request: &Request) -> Reply {
        let passed = at.saturating_sub(self.at);
        self.at += passed;
        let ignores_queue = self.mistake == Some(Mistake::IgnoresQueue);
        let backend = &self.backend;
        self.runtime.block_on(async {
            advance(passed).await;
            match request {
                Request::Acquire { claim, .. } => {
                    let claim = claim.clone().with_fair(claim.fair && !ignores_queue);
                    let outcome = backend.acquire(&claim).await;
                    Reply::Attempt(with_version(outcome.expect("all requests agree on the number of permits")))
                }
                Request::Renew(lease) => Reply::Renewal(backend.renew(lease).await.expect("it always answers")),
                Request::Release(lease) => {
                    let released = backend.release(lease, Duration::ZERO).await;
                    Reply::Release(released.expect("it always answers"))
                }
                Request::Call(call) => unreachable!("a call is for a server: {call:?}"),
            }
        })
    }

    /// Returns what `request`, which arrived at `at`, and its reply say about a place in the queue.
    pub(super) fn place(&mut self, at: Duration, request: &Request, reply: &Reply) -> Option<Event> {
        let (queued, name, until) = match (request, reply) {
            (Request::Acquire { claim, .. }, Reply::Attempt(AcquireOutcome::Contended(_)))
                if claim.fair && claim.waits =>
            {
                let number = self.places.len() as u64;
                let new = || Queued { number, worker: worker_of(&claim.owner), mode: mode_of(claim.mode) };
                (*self.places.entry(claim.id).or_insert_with(new), &claim.name, at + claim.ttl)
            }
            (Request::Release(lease), _) => (*self.places.get(&lease.id)?, &lease.name, at),
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
