//! The requests about names with a queue of fair requests.
//!
//! The scripts of other requests do not read the queue. They see in the key of the token that there
//! is one, and answer that they cannot tell. So they cost no more than without queues. A request
//! that meets a queue sends a second script.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{
    Error,
    backend::{AcquireRequest, Watch},
};
use redis::Value;
use tokio::sync::watch;

use crate::{deployment::Deployment, record::mode_text, wake::Queuing};

impl Deployment {
    /// Sends a request to acquire `lock` in its turn. Takes a place if the request is fair and
    /// waits.
    pub(crate) async fn ask_in_turn(
        &self,
        lock: &str,
        request: &AcquireRequest,
        queuing: Option<&Queuing<'_>>,
    ) -> Result<(Value, Result<(), Error>), Error> {
        let mut keys = self.acquire_keys(lock, request, true);
        keys.extend([self.keys.mark(lock), self.keys.queue(lock), self.keys.places(lock)]);
        let nowhere = Queuing { channel: "", place: String::new(), alone: false };
        let queuing = queuing.unwrap_or(&nowhere);
        let call = if request.mode.may_be_joined() {
            self.join_with(self.scripts.fair_join.call(&keys), request, Some(queuing))
        } else {
            let call = self.about(self.scripts.fair_acquire.call(&keys), request);
            let call = call.arg(queuing.channel).arg(&queuing.place).arg(u8::from(queuing.alone));
            call.arg(request.reserved_tokens).arg(u8::from(!self.relays))
        };
        let channel = if request.fair && request.waits { self.connection.wakers.channel() } else { "" };
        self.send(&call.arg(mode_text(request.mode)).arg(channel).arg(&request.owner)).await
    }
}

/// Waits for the turn of one fair request.
#[derive(Debug)]
pub(crate) struct PlaceWatch {
    deployment: Arc<Deployment>,
    /// The key of the lock and the id of the request, as the wake-up names them.
    place: String,
    changes: watch::Receiver<()>,
}

impl PlaceWatch {
    /// Starts to listen for the wake-up of `request`. The next attempt has to follow.
    pub(crate) async fn new(deployment: Arc<Deployment>, request: &AcquireRequest) -> Result<Self, Error> {
        let place = format!("{} {}", deployment.keys.lock(&request.name), request.id);
        let changes = deployment.connection.wakers.add(&place);
        // The watch exists before the request, so that its drop always ends it.
        let watch = Self { deployment, place, changes };
        watch.deployment.connection.subscribe().await?;
        Ok(watch)
    }
}

#[async_trait]
impl Watch for PlaceWatch {
    async fn changed(&mut self) {
        // The sender lives as long as any watch of this place, so this cannot fail.
        let _ = self.changes.changed().await;
        self.deployment.pass_on();
    }
}

impl Drop for PlaceWatch {
    fn drop(&mut self) {
        // The release of the request ends its place.
        self.deployment.connection.wakers.remove(&self.place);
    }
}
