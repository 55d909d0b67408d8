//! The turn of a guard that offers its release to the next waiter.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Turn;
use crate::{
    engine::relay::{Offer, OwnPermit, PendingRelease, Permit, RelayCall, Relaying},
    types::Lease,
};

impl Turn {
    /// Ends the turn, and offers the release of `lease` to the next one.
    pub(crate) fn offer_release(mut self, lease: Lease) -> (Offered, oneshot::Receiver<RelayCall>) {
        let (release, Relaying { sent, ends }) = PendingRelease::new(lease);
        let offer = Offer::new(release);
        self.place.queue.left.lock().offer = Some(Arc::clone(&offer));
        self.end();
        self.offered = Some((Arc::clone(&offer), ends));
        (Offered { offer, turn: self }, sent)
    }

    /// Ends the share of the previous turn in this one, because the lock of that turn is released.
    pub(crate) fn unshare(&mut self) {
        if let Some(Permit::Shared(permit)) = &self.permit {
            let permit = permit.lock().take();
            self.permit = permit.map(Permit::Own);
        }
    }
}

/// An offer, and the turn that ended with it. The owner has to
/// [withdraw](Self::withdraw) it.
#[derive(Debug)]
pub(crate) struct Offered {
    offer: Arc<Offer>,
    turn: Turn,
}

impl Offered {
    /// Waits until a waiter has taken the offer, or no waiter is left.
    pub(crate) async fn settled(&mut self) {
        while !self.offer.is_taken() && !self.take_turn_back() {
            self.offer.changed.notified().await;
        }
    }

    /// Returns `true` if no waiter has the turn, which is that of the guard again.
    fn take_turn_back(&mut self) -> bool {
        if self.turn.permit.is_none() {
            self.turn.permit = OwnPermit::take(&self.turn.place.queue.turn).map(Permit::Own);
        }
        self.turn.permit.is_some()
    }

    /// Ends the offer. A waiter may have the turn too.
    pub(crate) fn withdraw(mut self) -> Turn {
        self.offer.decline();
        if self.take_turn_back() {
            self.turn.offered = None;
        }
        self.turn
    }
}
