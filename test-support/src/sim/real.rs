//! A real backend in the simulation. Its transport is the simulated network, and its server is a
//! model.
//!
//! What the clients ask for follows from the capabilities of the backend, and from the seed. The
//! order of a queue is checked by the places that the server [shows](Server::changed_places).

use std::{fmt, sync::Arc, time::Duration};

use lock_core::{Mode, backend::Backend, clock::Clock};

pub use super::messages::{Answer, Call, world_time};
use super::{
    Mistake,
    messages::{Reply, Request},
    wire::Wire,
};

/// A backend and a model of its server.
pub trait Real: fmt::Debug + Sync {
    /// Returns the server of a simulation, which makes `mistake`.
    fn server(&self, mistake: Option<Mistake>) -> Box<dyn Server>;

    /// Returns the backend of a client process that starts. `seed` chooses the settings, and is the
    /// same for all clients of a simulation.
    fn backend(&self, seed: u64, transport: Transport, clock: Arc<dyn Clock>) -> Arc<dyn Backend>;

    /// Returns how long after the ttl the lock of a dead holder may become free.
    fn slack(&self) -> Duration;
}

/// A model of a server.
pub trait Server: fmt::Debug {
    /// Answers a request when it arrives; `trouble` makes the server fail.
    fn handle(&mut self, at: Duration, call: &Call, trouble: Option<Trouble>) -> Answer;

    /// Returns the places in queues that the request at `at` has changed. A server without queues
    /// has none.
    fn changed_places(&mut self, at: Duration) -> Vec<Place> {
        let _ = at;
        Vec::new()
    }
}

/// A place in the queue of a server, for one request of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The number of the place, which no other place of the simulation has.
    pub number: u64,
    /// The name of the lock.
    pub name: String,
    /// The owner of the request, which begins with the name of the worker.
    pub owner: String,
    /// How the lock is to be held.
    pub mode: Mode,
    /// The world's time until which every client knows that the place stands. The place has ended
    /// if that has passed.
    pub until: Duration,
}

/// A failure of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The server throttles the request, which has no effect.
    Throttled,
    /// The server returns an error, and the request has no effect.
    FailedBefore,
    /// The server returns an error, although the request has taken effect.
    FailedAfter,
}

impl Trouble {
    pub(super) fn random(rng: &mut fastrand::Rng) -> Self {
        [Self::Throttled, Self::FailedBefore, Self::FailedAfter][rng.usize(..3)]
    }
}

/// The connection of a client to the server.
#[derive(Debug, Clone)]
pub struct Transport(pub(super) Wire);

impl Transport {
    /// Sends a request and waits for the answer. It waits forever if one of them is lost.
    pub async fn call(&self, call: Call) -> Answer {
        match self.0.ask(Request::Call(call)).await {
            Reply::Answer(answer) => answer,
            other => unreachable!("the server answers what it was asked: {other:?}"),
        }
    }
}
