//! What clients, stores and servers say to each other.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lock_core::backend::{AcquireOutcome, AcquireRequest, Lease, Release, Renewal};
use tokio::sync::oneshot;

use super::clock::EPOCH;

/// What a client sends.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Acquire {
        claim: AcquireRequest,
        /// The version of the record whose holder the client knows to be dead.
        dead: Option<u64>,
    },
    Renew(Lease),
    Release(Lease),
    /// To a real backend's server.
    Call(Call),
}

/// What the store answers.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Attempt(AcquireOutcome),
    Renewal(Renewal),
    Release(Release),
    Answer(Answer),
}

/// A request on the network.
#[derive(Debug, Clone)]
pub struct Call {
    /// The operation.
    pub operation: String,
    /// The body.
    pub body: String,
}

/// An answer on the network.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The world's time when the server answered.
    pub at: Duration,
    /// The HTTP status.
    pub status: u16,
    /// The result or the error.
    pub body: String,
}

/// Returns the world's time at which the server's clock shows these milliseconds since the Unix
/// epoch.
pub fn world_time(millis: u64) -> Duration {
    Duration::from_millis(millis).saturating_sub(Duration::from_secs_f64(EPOCH))
}

impl Answer {
    /// Returns the server's clock, in whole seconds since the Unix epoch.
    pub fn date(&self) -> i64 {
        (EPOCH + self.at.as_secs_f64()) as i64
    }
}

/// The receiver of the reply to a request; the first of several copies counts.
#[derive(Debug, Clone)]
pub(super) struct ReplyTo(Arc<Mutex<Option<oneshot::Sender<Reply>>>>);

impl ReplyTo {
    pub(super) fn new() -> (Self, oneshot::Receiver<Reply>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    pub(super) fn give(&self, reply: Reply) {
        if let Some(sender) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The client may have stopped waiting.
            let _ = sender.send(reply);
        }
    }
}

/// A protected write, on its way to the resource.
#[derive(Debug, Clone)]
pub(super) struct Write {
    pub(super) worker: u64,
    pub(super) name: Arc<str>,
    pub(super) token: u64,
}
