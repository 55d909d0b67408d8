//! Releases a lock in the request with which the next waiter of this process acquires it.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::Guard;
use crate::{
    backend::{Relayed, Release},
    engine::{hand_over::TAKEN_WITHIN, hold::LeaseState, queue::Offered},
    types::{Error, no_reply},
};

impl Guard {
    /// Leaves the release to the next waiter of this process, whose request may take `limit`.
    /// Returns `None` if no waiter has sent it. After an error too, the lock has to be released.
    pub(super) async fn relay(&mut self, limit: Duration) -> Option<Result<Release, Error>> {
        self.shared.backend.relay()?;
        let (offered, sent) = self.hold.take_turn()?.offer_release(self.hold.lease.clone());
        let mut offering = Offering { offered: Some(offered), hold: &self.hold };
        if let Some(offered) = &mut offering.offered {
            let _ = timeout(TAKEN_WITHIN, offered.settled()).await;
        }
        drop(offering);
        let call = Box::pin(async move { Some(sent.await.ok()?.await) });
        let mut request = Request { call: Some(call), hold: &self.hold };
        let answer = timeout(limit, request.call.as_mut()?).await.unwrap_or_else(|_| Some(Err(no_reply(limit))))?;
        Some(answer.map(|relayed| relayed.released))
    }
}

/// The offer of a guard. Its drop ends the offer, also when the release is cancelled.
struct Offering<'a> {
    offered: Option<Offered>,
    hold: &'a LeaseState,
}

impl Drop for Offering<'_> {
    fn drop(&mut self) {
        let Some(offered) = self.offered.take() else { return };
        if self.hold.forked().is_some() {
            // It belongs to the parent, and its mutex may stay locked in this process.
            return std::mem::forget(offered);
        }
        self.hold.keep_turn(Some(offered.withdraw()));
        self.hold.note_release();
    }
}

/// The request of the waiter, which this guard awaits too.
struct Request<'a> {
    call: Option<BoxFuture<'static, Option<Result<Relayed, Error>>>>,
    hold: &'a LeaseState,
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if self.hold.forked().is_some() {
            // It belongs to the parent, with the task of the waiter.
            std::mem::forget(self.call.take());
        }
    }
}
