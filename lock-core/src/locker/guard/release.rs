//! Releases a held lock: by a call that waits for the store, or in the background after a drop.

use std::sync::Arc;

use tokio::time::timeout;
use tracing::Instrument as _;

use super::Guard;
use crate::{
    backend::Release,
    engine::{hand_over::QueuedLease, metrics::Metrics},
    types::Error,
};

impl Guard {
    /// Releases the lock, after [`min_hold`](crate::LockRequest::min_hold) if that has not passed.
    ///
    /// If the lock was lost before, this returns [`Release::NotHeld`]. It never releases a
    /// successor's lock, nor in a forked child the lock of the parent.
    ///
    /// With [`hand_over`](crate::LockRequest::hand_over), the next waiter of this process may get
    /// the lock instead, and this returns [`Release::Released`] immediately. If all waiters are
    /// cancelled before they run, or the next one is not polled for 100 ms, the lock is released in
    /// the background. The store is not asked at a hand-over, so a break that no renewal has
    /// noticed becomes the loss of the next guard.
    ///
    /// If a task of this process waits for the lock, a store that can do both at once gets the
    /// release with the request of that task. If that task does not run for 100 ms, the release
    /// goes alone.
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
        if self.hand_over() {
            tracing::debug!(name = %self.hold.lease.name, "handed over");
            return Ok(Release::Released);
        }
        let span = tracing::debug_span!("release", name = %self.hold.lease.name);
        let answer = self.give_back().instrument(span).await;
        tracing::debug!(name = %self.hold.lease.name, ?answer, "release finished");
        self.armed = match &answer {
            Ok(_) => false,
            Err(error) => error.is_retryable(),
        };
        if !self.armed {
            // A loss signal may outlive this guard, and must not keep the turn.
            self.hold.end_turn();
        }
        answer
    }

    async fn give_back(&mut self) -> Result<Release, Error> {
        let hold = Arc::clone(&self.hold);
        let now = hold.now();
        let held = hold.is_valid(now);
        let requests = hold.requests.try_lock().ok();
        self.shared.stop_renewing(&hold, now);
        let limit = hold.timing.attempt_timeout;
        let is_alone = !held || requests.is_none() || !hold.may_be_relayed();
        // Boxed, to keep the future of a release without waiters small.
        let relayed = if is_alone { None } else { Box::pin(self.relay(limit)).await };
        let in_doubt = match relayed {
            Some(Ok(answer)) => {
                self.hold.end_turn();
                return Ok(answer);
            }
            Some(Err(error)) => error.is_ambiguous(),
            None => false,
        };
        // A renewal in flight goes first. If it hangs, the release goes ahead after `limit`, which
        // is safe because both compare the id.
        let _requests = match requests {
            Some(requests) => Some(requests),
            None => timeout(limit, hold.requests.lock()).await.ok(),
        };
        let answer = self.shared.release_repeatedly(&self.hold.lease, self.hold.hold_for(), limit, held).await?;
        self.hold.note_end(|| self.shared.pace());
        self.hold.end_turn();
        if in_doubt && matches!(answer, Release::NotHeld(_)) {
            // By the request of the waiter, whose reply was lost.
            self.shared.metrics.ambiguity_resolved("release", "released");
            return Ok(Release::Released);
        }
        Ok(answer)
    }

    /// Hands the lock over to the next waiter of this process. Returns `false` if the lock has to
    /// be released.
    fn hand_over(&mut self) -> bool {
        let Some((turn, now)) = self.hold.leave() else { return false };
        let queued = QueuedLease::new(&self.hold, &self.shared, now);
        self.armed = false;
        turn.pass(queued);
        true
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
        self.shared.release_in_background(&self.hold, now, held, Metrics::dropped);
    }
}
