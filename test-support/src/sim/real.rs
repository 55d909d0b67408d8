//! A real backend in the simulation: its own code, over a transport that is the simulated network,
//! to a model of its server.

use std::{fmt, sync::Arc, time::Duration};

use lock_core::{backend::Backend, clock::Clock};

use super::{
    Mistake,
    client::Wire,
    clock::EPOCH,
    store::{Reply, Request},
};

/// A backend and the server that it talks to.
pub trait Real: fmt::Debug + Sync {
    /// The server of a simulation, making `mistake`.
    fn server(&self, mistake: Option<Mistake>) -> Box<dyn Server>;

    /// The backend of a client process that starts; `seed` chooses among its settings, the same for
    /// all clients of a simulation.
    fn backend(&self, seed: u64, transport: Transport, clock: Arc<dyn Clock>) -> Arc<dyn Backend>;

    /// How much later than by the holder's ttl a dead holder's lock may be free.
    fn slack(&self) -> Duration;
}

/// What a server does with each request, at the moment in which it arrives.
pub trait Server: fmt::Debug {
    /// Answers; with `trouble` not as it should.
    fn handle(&mut self, at: Duration, call: &Call, trouble: Option<Trouble>) -> Answer;
}

/// How a server fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It asks for fewer requests, and has done nothing.
    Throttled,
    /// An error, and nothing was done.
    FailedBefore,
    /// An error, although the request has taken effect.
    FailedAfter,
}

impl Trouble {
    pub(super) fn random(rng: &mut fastrand::Rng) -> Self {
        [Self::Throttled, Self::FailedBefore, Self::FailedAfter][rng.usize(..3)]
    }
}

/// A request as it goes over the wire.
#[derive(Debug, Clone)]
pub struct Call {
    /// What to do.
    pub operation: String,
    /// With what.
    pub body: String,
}

/// An answer as it goes over the wire.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The time of the world at the server.
    pub at: Duration,
    /// Of HTTP.
    pub status: u16,
    /// The result, or what is wrong.
    pub body: String,
}

impl Answer {
    /// The server's clock, in whole seconds since the Unix epoch.
    pub fn date(&self) -> i64 {
        (EPOCH + self.at.as_secs_f64()) as i64
    }
}

/// A client's way to the server.
#[derive(Debug, Clone)]
pub struct Transport(pub(super) Wire);

impl Transport {
    /// Sends a request and waits for its answer, for ever if it or the answer is lost.
    pub async fn call(&self, call: Call) -> Answer {
        match self.0.ask(Request::Call(call)).await {
            Reply::Answer(answer) => answer,
            other => unreachable!("the server answers what it was asked: {other:?}"),
        }
    }
}
