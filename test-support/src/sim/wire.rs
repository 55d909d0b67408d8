//! A client's end of the network.

use std::sync::{Arc, Mutex, PoisonError};

use lock_core::clock::Clock;

use super::{
    Mistake,
    clock::SimClock,
    messages::{Reply, ReplyTo, Request, Write},
};

/// What a client has to say to the world.
#[derive(Debug)]
pub(super) enum Outgoing {
    Request(Request, ReplyTo),
    Write(Write),
}

/// Messages that a client has sent since the world last looked.
pub(super) type Outbox = Arc<Mutex<Vec<Outgoing>>>;

pub(super) fn send(outbox: &Outbox, message: Outgoing) {
    outbox.lock().unwrap_or_else(PoisonError::into_inner).push(message);
}

/// A client's end of the network.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    pub(super) mistake: Option<Mistake>,
    pub(super) outbox: Outbox,
    pub(super) clock: Arc<SimClock>,
}

impl Wire {
    pub(super) async fn ask(&self, request: Request) -> Reply {
        let sent = self.clock.now();
        let (reply_to, reply) = ReplyTo::new();
        send(&self.outbox, Outgoing::Request(request, reply_to));
        let Ok(reply) = reply.await else { return std::future::pending().await };
        if self.mistake == Some(Mistake::ValidityFromReply) {
            self.clock.forget(self.clock.now().since(sent));
        }
        reply
    }
}
