//! The subject of a simulation: the core over a model of a store, or a real backend over a model of
//! its server.

use std::{sync::Arc, time::Duration};

use lock_core::backend::{Backend, Capabilities};
use lock_history::{Event, EventKind};

use super::{
    Mistake,
    clock::{SimClock, WorldTime},
    memory_store::MemoryStore,
    messages::{Reply, Request},
    real::{Place, Real, Server, Transport, Trouble},
    sim_backend::SimBackend,
    store::{Kind, Store},
    wire::{Outbox, Wire},
    worker::{Load, mode_of, worker_of},
};

#[derive(Debug)]
pub(super) enum Subject<'a> {
    Model(Kind, Store),
    Memory(Box<MemoryStore>),
    Real { real: &'a dyn Real, seed: u64, server: Box<dyn Server> },
}

impl<'a> Subject<'a> {
    pub(super) fn model(mistake: Option<Mistake>, rng: &mut fastrand::Rng) -> Self {
        let by_chance = if rng.bool() { Kind::Clocked } else { Kind::Observed };
        let kind = if mistake == Some(Mistake::TakeoverWithoutVersion) { Kind::Observed } else { by_chance };
        Self::Model(kind, Store::new(kind, mistake))
    }

    pub(super) fn memory(mistake: Option<Mistake>) -> Self {
        Self::Memory(Box::new(MemoryStore::new(mistake)))
    }

    pub(super) fn real(real: &'a dyn Real, seed: u64, mistake: Option<Mistake>) -> Self {
        Self::Real { real, seed, server: real.server(mistake) }
    }

    pub(super) fn is_real(&self) -> bool {
        matches!(self, Self::Real { .. })
    }

    /// Returns the backend of a client that starts.
    pub(super) fn backend(&self, wire: Wire, clock: &Arc<SimClock>) -> Arc<dyn Backend> {
        match self {
            Self::Model(kind, _) => Arc::new(SimBackend::new(*kind, exclusive_locks(), wire)),
            Self::Memory(_) => {
                let capabilities = exclusive_locks().with_shared(true).with_permits(true).with_fair(true);
                Arc::new(SimBackend::new(Kind::Clocked, capabilities, wire))
            }
            Self::Real { real, seed, .. } => real.backend(*seed, Transport(wire), Arc::clone(clock) as _),
        }
    }

    /// Returns the answer of the store at `at`; `weather` is the chance that a real server fails.
    pub(super) fn handle(&mut self, at: Duration, request: &Request, weather: f64, rng: &mut fastrand::Rng) -> Reply {
        match (self, request) {
            (Self::Real { server, .. }, Request::Call(call)) => {
                let trouble = (rng.f64() < weather).then(|| Trouble::random(rng));
                Reply::Answer(server.handle(at, call, trouble))
            }
            (Self::Model(_, store), request) => store.handle(at, request),
            (Self::Memory(store), request) => store.handle(at, request),
            (Self::Real { .. }, request) => unreachable!("a real backend makes calls: {request:?}"),
        }
    }

    /// Returns what a request that arrived at `at`, and its reply, say about places in the queue.
    pub(super) fn places(&mut self, at: Duration, request: &Request, reply: &Reply) -> Vec<Event> {
        let event = |place: Place| {
            let kind = EventKind::Queued { place: place.number, mode: mode_of(place.mode), until: place.until };
            Event { at, worker: worker_of(&place.owner), name: place.name.into(), kind }
        };
        match self {
            Self::Memory(store) => store.place(at, request, reply).into_iter().collect(),
            Self::Real { server, .. } => server.changed_places(at).into_iter().map(event).collect(),
            Self::Model(..) => Vec::new(),
        }
    }

    /// Returns what the workers ask this store for. They ask for shared locks and permits only
    /// where it has both. A mistake of a real backend is brought back where it shows soonest,
    /// because these simulations take the longest.
    pub(super) fn load(&self, mistake: Option<Mistake>, rng: &mut fastrand::Rng) -> Load {
        let clock = Arc::new(SimClock::new(WorldTime::default(), 1.0));
        let wire = Wire { mistake, outbox: Outbox::default(), clock: Arc::clone(&clock) };
        let has = self.backend(wire, &clock).capabilities();
        let (has_modes, has_queue) = (has.shared && has.permits, has.fair);
        match mistake.filter(|_| self.is_real()) {
            Some(mistake) => {
                Load { modes: has_modes && mistake.needs_modes(), fair: has_queue && mistake.needs_queue() }
            }
            None => Load { modes: has_modes && rng.bool(), fair: has_queue && rng.bool() },
        }
    }

    /// Returns how long after the ttl the lock of a dead holder may become free.
    pub(super) fn slack(&self) -> Duration {
        match self {
            Self::Model(..) | Self::Memory(_) => Duration::ZERO,
            Self::Real { real, .. } => real.slack(),
        }
    }
}

/// What each store of a simulation can do.
fn exclusive_locks() -> Capabilities {
    Capabilities::default()
        .with_ttl(true)
        .with_fencing(true)
        .with_loss_signal(true)
        .with_holder(true)
        .with_hand_over(true)
}
