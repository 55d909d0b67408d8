//! One pending acquisition. All its requests carry one id, and each unanswered one is rolled back.

use std::{fmt, panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::time::timeout;

use crate::{
    backend::{AcquireOutcome, AcquireRequest},
    engine::{metrics::Outcome, queue::Turn, relay::PendingRelease, shared::Shared},
    types::{ClockReading, Error, Holder, Lease, LeaseId, Operation, no_reply},
};

type Call = Pin<Box<dyn Future<Output = Result<AcquireOutcome, Error>> + Send>>;

/// An acquisition that has no guard yet.
///
/// Dropping it rolls the acquisition back, so that its id holds no lock. A request in flight is
/// awaited and rolled back in the background.
pub(crate) struct PendingAcquire {
    shared: Arc<Shared>,
    pub(crate) request: Arc<AcquireRequest>,
    attempt_timeout: Duration,
    call: Option<Call>,
    /// The earliest unanswered send since the last answered one, which may be the one that is
    /// granted.
    unanswered: Option<ClockReading>,
    /// An attempt of this id had no answer. It may still arrive, though a later one was refused.
    may_arrive_late: bool,
    /// A lease that may still be held, but that no guard can have: it was granted too late, or to a
    /// guard of this process with other options. Its mode may not be that of the request.
    unusable: Option<Box<Lease>>,
    /// The store keeps newcomers out, because this acquisition waits.
    waiting: bool,
    /// The release of the previous guard. In a box, because most acquisitions have none.
    before: Option<Box<PendingRelease>>,
    /// The place in this process's queue for the name. A rollback keeps it.
    pub(crate) turn: Option<Turn>,
}

impl fmt::Debug for PendingAcquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingAcquire")
            .field("request", &self.request)
            .field("unanswered", &self.unanswered)
            .finish_non_exhaustive()
    }
}

impl PendingAcquire {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        request: AcquireRequest,
        attempt_timeout: Duration,
        turn: Option<Turn>,
    ) -> Self {
        let (shared, request) = (Arc::clone(shared), Arc::new(request));
        Self {
            shared,
            request,
            attempt_timeout,
            call: None,
            unanswered: None,
            may_arrive_late: false,
            unusable: None,
            waiting: false,
            before: None,
            turn,
        }
    }

    /// Takes the responsibility for a lease of this process, whose validity counts from `from`. The
    /// next attempt releases it, and so does a drop.
    pub(crate) fn take_over(&mut self, lease: Lease, from: ClockReading) {
        (self.unanswered, self.unusable) = (Some(from), Some(Box::new(lease)));
    }

    /// Sends the release of the previous guard with the next attempt. If `declined`, that guard has
    /// to release.
    pub(crate) fn follow(&mut self, release: Box<PendingRelease>, declined: bool) {
        self.before = Some(release);
        if declined {
            self.leave_release();
        }
    }

    /// Leaves the release of the previous guard to that guard.
    pub(crate) fn leave_release(&mut self) {
        drop(self.before.as_mut().and_then(|before| before.decline()));
    }

    /// Waits until the previous guard has released, unless the next attempt does that. Otherwise
    /// the attempt could find the lock of this process.
    pub(crate) async fn wait_for_release(&mut self, left: Option<Duration>) {
        let Some(before) = self.before.take_if(|before| !before.is_unsent()) else { return };
        // The task of that guard may not run. Then its lease has ended in the store by this time.
        let limit = before.ttl.max(4 * self.attempt_timeout);
        drop(timeout(left.map_or(limit, |left| left.min(limit)), before.ended()).await);
    }

    /// Returns the longest time until the next attempt, so that the store goes on to keep newcomers
    /// out.
    pub(crate) fn longest_pause(&self) -> Option<Duration> {
        self.waiting.then_some(self.request.ttl / 3)
    }

    /// Sets the ttl of the next attempts.
    pub(crate) fn set_ttl(&mut self, ttl: Duration) {
        if self.request.ttl != ttl {
            Arc::make_mut(&mut self.request).ttl = ttl;
        }
    }

    /// Releases a lock that was granted too late, and continues with a new id. The validity of the
    /// old id would count from `from`, its first send. Returns `true` if the store confirmed the
    /// release.
    pub(crate) async fn give_back(&mut self, from: ClockReading) -> bool {
        let (lease, limit) = (self.request.lease(None), self.attempt_timeout);
        (self.unanswered, self.unusable) = (Some(from), Some(Box::new(lease.clone())));
        let released = self.shared.release_repeatedly(&lease, Duration::ZERO, limit, false).await.is_ok();
        if released {
            self.begin_anew();
        }
        released
    }

    /// Prepares the next attempt, within `left`: releases a late grant whose release has not been
    /// confirmed. Otherwise this process, under a new id, would contend with its own lock.
    pub(crate) async fn prepare(&mut self, left: Option<Duration>) -> Result<(), Error> {
        self.release_unusable(left).await?;
        if self.request.id == LeaseId::NONE {
            // Not earlier, because a random number is a system call. None is drawn in advance:
            // copies of a virtual machine would share it.
            Arc::make_mut(&mut self.request).id = LeaseId::random();
        }
        Ok(())
    }

    /// Releases a lease that no guard can have, within `left`. The next attempt then has a new id.
    /// Returns whether there was one.
    pub(crate) async fn release_unusable(&mut self, left: Option<Duration>) -> Result<bool, Error> {
        let Some(lease) = self.unusable.as_deref().cloned() else { return Ok(false) };
        let limit = self.limit(left);
        let answer = timeout(limit, self.shared.backend.release(&lease, Duration::ZERO)).await;
        if let Err(error) = answer.unwrap_or_else(|_| Err(no_reply(limit))) {
            return Err(error.with_ambiguous(true).with_operation(Operation::Acquire).with_name(&lease.name));
        }
        self.begin_anew();
        Ok(true)
    }

    fn begin_anew(&mut self) {
        (self.unanswered, self.unusable, self.may_arrive_late) = (None, None, false);
        Arc::make_mut(&mut self.request).id = LeaseId::NONE;
    }

    fn limit(&self, left: Option<Duration>) -> Duration {
        left.map_or(self.attempt_timeout, |left| left.min(self.attempt_timeout))
    }

    /// Sends one attempt, which takes at most `left`. Returns the answer and the time from which a
    /// granted lease counts.
    pub(crate) async fn attempt(&mut self, left: Option<Duration>) -> Result<(ClockReading, AcquireOutcome), Error> {
        let limit = self.limit(left);
        let sent = self.shared.clock.now();
        let before = self.unanswered;
        self.unanswered.get_or_insert(sent);
        let call = self.call();
        let answer = timeout(limit, self.call.insert(call).as_mut()).await;
        self.call = None;
        match answer.unwrap_or_else(|_| Err(no_reply(limit))) {
            Ok(answer) => {
                let from = self.unanswered.take().unwrap_or(sent);
                self.waiting = match &answer {
                    AcquireOutcome::Granted(_) => false,
                    // An earlier attempt may have left a mark that this refusal does not show. A
                    // store that found no holder any more may have set one, too.
                    AcquireOutcome::Contended(holder) => {
                        let is_unseen = *holder == Holder::default();
                        let keeps_out = self.request.fair || holder.mode != self.request.mode || is_unseen;
                        self.waiting || self.request.waits && keeps_out
                    }
                };
                let is_granted = matches!(answer, AcquireOutcome::Granted(_));
                self.note_release_before(is_granted);
                self.may_arrive_late &= !is_granted;
                let (outcome, found) = match is_granted {
                    true => (Outcome::Acquired, "acquired"),
                    false => (Outcome::Contended, "contended"),
                };
                if before.is_some() {
                    self.shared.metrics.ambiguity_resolved("acquire", found);
                }
                self.shared.metrics.attempt(outcome);
                Ok((from, answer))
            }
            Err(error) => {
                if error.is_ambiguous() {
                    self.may_arrive_late = true;
                } else {
                    self.unanswered = before;
                }
                self.shared.metrics.attempt(Outcome::from(&error));
                Err(error.with_operation(Operation::Acquire).with_name(&self.request.name))
            }
        }
    }

    fn call(&mut self) -> Call {
        let (backend, request) = (Arc::clone(&self.shared.backend), Arc::clone(&self.request));
        let before = self.before.as_mut();
        let both = before.and_then(|release| release.call(Arc::clone(&backend), Arc::clone(&request)));
        both.unwrap_or_else(|| Box::pin(async move { backend.acquire(&request).await }))
    }

    /// Notes after an answer that the lock of the previous guard is released. That guard may not
    /// know yet, or not run any more.
    fn note_release_before(&mut self, is_granted: bool) {
        // The request has carried a release that is still pending here. A grant proves any earlier
        // release.
        if (self.before.take().is_some() || is_granted)
            && let Some(turn) = &mut self.turn
        {
            turn.unshare();
        }
    }

    /// Rolls the acquisition back in the background.
    fn abandon(&mut self) {
        let lease = self.unusable.take().map_or_else(|| self.request.lease(None), |lease| *lease);
        tracing::debug!(name = %lease.name, id = %lease.id, "acquisition abandoned; rolling it back");
        let (call, limit, shared) = (self.call.take(), self.attempt_timeout, Arc::clone(&self.shared));
        let turn = self.turn.take();
        if let Some(turn) = &turn {
            turn.note_release();
        }
        let work = async move |lease: Lease| {
            // An attempt meanwhile would see this process's own lock as another holder's.
            let _turn = turn;
            if let Some(call) = call {
                // A dropped request may still arrive after the release, so await its answer first.
                // A call that panicked may panic again.
                let _ = timeout(limit, AssertUnwindSafe(call).catch_unwind()).await;
            }
            shared.release_repeatedly(&lease, Duration::ZERO, limit, false).await.is_ok()
        };
        // No guard was dropped, so none is counted.
        self.shared.in_background(&lease, Duration::ZERO, work, |_, _| ());
    }
}

impl Drop for PendingAcquire {
    fn drop(&mut self) {
        if !self.shared.process.is_current() {
            // The request belongs to the parent, with its connection and its tasks.
            std::mem::forget((self.call.take(), self.before.take()));
        } else if self.unanswered.is_some() || self.waiting || self.may_arrive_late {
            self.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::Backend as _,
        engine::timing::Timing,
        memory::MemoryBackend,
        types::{Clock as _, LockName, LockOptions, SystemClock},
    };

    /// The acquisition may stand back before it asks again. A copy of the machine that is made
    /// meanwhile would ask with the same id.
    #[tokio::test(start_paused = true)]
    // verifies: P5
    async fn a_new_beginning_has_no_id_until_it_asks() {
        let (backend, options) = (MemoryBackend::new(), LockOptions::default());
        let timing = Timing::new(&options, backend.capabilities(), backend.timings()).unwrap();
        let shared = Shared::new(Arc::new(backend), Arc::new(SystemClock), options, timing, String::new());
        let request = AcquireRequest::new(LockName::new("job").unwrap(), LeaseId::NONE, "a test");
        let mut pending = PendingAcquire::new(&Arc::new(shared), request.clone(), timing.attempt_timeout, None);
        let (before, now) = (request.with_id(LeaseId::random()).lease(None), SystemClock.now());

        pending.take_over(before.clone(), now);
        assert!(pending.release_unusable(None).await.unwrap());
        assert_eq!(pending.request.id, LeaseId::NONE, "after a lease of this process");

        pending.prepare(None).await.unwrap();
        assert!(![LeaseId::NONE, before.id].contains(&pending.request.id));
        assert!(pending.give_back(now).await);
        assert_eq!(pending.request.id, LeaseId::NONE, "after a grant that was too late");
    }
}
