//! Releases a held lock: by a call that waits for the store, or in the background after a drop.

use std::sync::Arc;

use tokio::time::timeout;
use tracing::Instrument as _;

use super::Guard;
use crate::{
    backend::Release,
    engine::metrics,
    types::{ClockReading, Error, Lease},
};

impl Guard {
    /// Releases the lock, after [`min_hold`](crate::LockRequest::min_hold) if that has not passed.
    ///
    /// If the lock was lost before, this returns [`Release::NotHeld`]. It never releases a
    /// successor's lock, nor in a forked child the lock of the parent.
    ///
    /// # Errors
    /// If the store does not confirm the release after three attempts. A further attempt continues
    /// in the background, and the ttl is the backstop.
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

    async fn give_back(&self) -> Result<Release, Error> {
        let now = self.hold.now();
        let held = self.hold.is_valid(now);
        self.stop_renewing(now);
        let limit = self.hold.timing.attempt_timeout;
        // A renewal in flight goes first. If it hangs, the release goes ahead after `limit`, which
        // is safe because both compare the id.
        let _requests = match self.hold.requests.try_lock() {
            Ok(requests) => Some(requests),
            Err(_) => timeout(limit, self.hold.requests.lock()).await.ok(),
        };
        let answer = self.shared.release_repeatedly(&self.hold.lease, self.hold.hold_for(), limit, held).await?;
        self.hold.end_turn();
        Ok(answer)
    }

    fn stop_renewing(&self, now: ClockReading) {
        self.hold.note_release();
        self.hold.close(now);
        self.shared.renewer.forget(self.hold.lease.id);
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
        if !self.shared.in_background(&self.hold.lease, hold_for, work, metrics::dropped) {
            self.hold.end_turn();
        }
    }
}
