//! Releases a held lock: by a call that waits for the store, or in the background after a drop.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tracing::Instrument as _;

use super::Guard;
use crate::{
    backend::Release,
    engine::{
        hand_over::Parcel,
        hold::LeaseState,
        metrics::Metrics,
        queue::{Handed, Offered},
    },
    types::{ClockReading, Error, Lease},
};

impl Guard {
    /// Releases the lock, after [`min_hold`](crate::LockRequest::min_hold) if that has not passed.
    ///
    /// If the lock was lost before, this returns [`Release::NotHeld`]. It never releases a
    /// successor's lock, nor in a forked child the lock of the parent.
    ///
    /// With [`hand_over`](crate::LockRequest::hand_over), the next waiter of this process may get
    /// the lock instead. This returns [`Release::Released`] once the waiter has it. The store is
    /// not asked then, so a break that no renewal has noticed becomes the loss of the next guard.
    ///
    /// # Errors
    /// If the store does not confirm the release after three attempts, or throttles for three
    /// request timeouts. A further attempt continues in the background, and the ttl is the
    /// backstop.
    ///
    /// # Cancel safety
    /// Cancel safe: if the future is dropped, the release continues in the background.
    pub async fn release(mut self) -> Result<Release, Error> {
        if self.hold.forked().is_some() {
            return Ok(Release::NotHeld(None));
        }
        let span = tracing::debug_span!("release", name = %self.hold.lease.name);
        let answer = self.give_back().instrument(span).await;
        tracing::debug!(name = %self.hold.lease.name, ?answer, "release finished");
        self.armed = match &answer {
            Ok(_) => false,
            Err(error) => error.is_retryable(),
        };
        answer
    }

    async fn give_back(&mut self) -> Result<Release, Error> {
        let hold = Arc::clone(&self.hold);
        let now = hold.now();
        let held = hold.is_valid(now);
        let requests = hold.requests.try_lock().ok();
        // The next guard would not get the answer to a renewal in flight.
        let parcel = requests.as_ref().filter(|_| held).and_then(|_| hold.parcel(now));
        self.stop_renewing(now);
        if let Some(parcel) = parcel
            && self.hand_over(parcel).await
        {
            return Ok(Release::Released);
        }
        let limit = hold.timing.attempt_timeout;
        // A renewal in flight goes first. If it hangs, the release goes ahead after `limit`, which
        // is safe because both compare the id.
        let _requests = match requests {
            Some(requests) => Some(requests),
            None => timeout(limit, hold.requests.lock()).await.ok(),
        };
        let answer = self.shared.release_repeatedly(&self.hold.lease, self.hold.hold_for(), limit, held).await?;
        self.hold.end_turn();
        Ok(answer)
    }

    /// Hands the lock over to the next waiter of this process. Returns `false` if no waiter has
    /// taken it, and the lock has to be released.
    async fn hand_over(&mut self, parcel: Parcel) -> bool {
        let Some(turn) = self.hold.take_turn() else { return false };
        let offered = Some(turn.offer(parcel));
        let mut offering = Offering { offered, hold: &self.hold, armed: &mut self.armed };
        if let Some(offered) = &mut offering.offered {
            let _ = timeout(TAKEN_WITHIN, offered.settled()).await;
        }
        drop(offering);
        !self.armed
    }

    fn stop_renewing(&self, now: ClockReading) {
        self.hold.note_release();
        self.hold.close(now);
        self.shared.renewer.forget(&self.hold);
    }
}

/// The longest time until the next waiter of this process takes a lock that is handed over. A
/// waiter whose future is not polled must not keep the lock from other processes. Long against the
/// time that a busy runtime needs to poll it.
const TAKEN_WITHIN: Duration = Duration::from_millis(100);

/// The offer of a lock by its guard. Its drop ends the offer, also when the release is cancelled.
struct Offering<'a> {
    offered: Option<Offered>,
    hold: &'a LeaseState,
    /// Whether the guard has to release the lock.
    armed: &'a mut bool,
}

impl Drop for Offering<'_> {
    fn drop(&mut self) {
        let Some(offered) = self.offered.take() else { return };
        if self.hold.forked().is_some() {
            // It belongs to the parent, and its mutex may stay locked in this process.
            return std::mem::forget(offered);
        }
        match offered.withdraw() {
            Handed::Over => *self.armed = false,
            Handed::Back(turn) => {
                self.hold.keep_turn(turn);
                self.hold.note_release();
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.hold.forked().is_some() {
            // The lock is the parent's, and so are the task and the connection that would end it.
            std::mem::forget((Arc::clone(&self.hold), Arc::clone(&self.shared)));
            return;
        }
        if !self.armed {
            return;
        }
        let now = self.hold.now();
        let held = self.hold.is_valid(now);
        self.stop_renewing(now);
        let (hold, shared) = (Arc::clone(&self.hold), Arc::clone(&self.shared));
        let (limit, hold_for) = (hold.timing.attempt_timeout, hold.hold_for());
        let work = async move |lease: Lease| {
            let _requests = timeout(limit, hold.requests.lock()).await;
            let answer = shared.release_repeatedly(&lease, hold_for, limit, held).await;
            if let Err(error) = &answer {
                tracing::warn!(name = %lease.name, %error, "release of a dropped guard failed: the lock stays held \
                    until its ttl ends");
            }
            hold.end_turn();
            answer.is_ok()
        };
        if !self.shared.in_background(&self.hold.lease, hold_for, work, Metrics::dropped) {
            self.hold.end_turn();
        }
    }
}
