//! One acquisition on its way: every request of it carries one id, and none is left behind unanswered.

use std::{fmt, panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::time::timeout;

use crate::{
    backend::{AcquireOutcome, AcquireRequest},
    engine::{
        metrics::{self, Outcome},
        shared::Shared,
    },
    types::{ClockReading, Error, Lease, LeaseId, Operation, no_reply},
};

type Call = Pin<Box<dyn Future<Output = Result<AcquireOutcome, Error>> + Send>>;

/// An acquisition that has not become a guard yet.
///
/// Dropping it, at any point, sees to it that its id holds no lock: a request still in flight is awaited in the background and undone.
pub(crate) struct PendingAcquire {
    shared: Arc<Shared>,
    pub(crate) claim: Arc<AcquireRequest>,
    attempt_timeout: Duration,
    call: Option<Call>,
    /// The earliest send that got no answer, since the last that did: it may be the one that is granted.
    unanswered: Option<ClockReading>,
    /// The id was granted the lock too late to be of use, and may hold it still.
    too_late: bool,
}

impl fmt::Debug for PendingAcquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingAcquire")
            .field("claim", &self.claim)
            .field("unanswered", &self.unanswered)
            .finish_non_exhaustive()
    }
}

impl PendingAcquire {
    pub(crate) fn new(shared: &Arc<Shared>, claim: AcquireRequest, attempt_timeout: Duration) -> Self {
        let (shared, claim) = (Arc::clone(shared), Arc::new(claim));
        Self { shared, claim, attempt_timeout, call: None, unanswered: None, too_late: false }
    }

    /// Sets the ttl of the next attempts.
    pub(crate) fn set_ttl(&mut self, ttl: Duration) {
        if self.claim.ttl != ttl {
            Arc::make_mut(&mut self.claim).ttl = ttl;
        }
    }

    /// Releases a lock that was granted too late to be of use, and goes on under a new id: the old one would count from `from`, its send,
    /// again. Says whether the store has confirmed it.
    pub(crate) async fn give_back(&mut self, from: ClockReading) -> bool {
        (self.unanswered, self.too_late) = (Some(from), true);
        let (lease, limit) = (self.claim.lease(None), self.attempt_timeout);
        let released = self.shared.release_repeatedly(&lease, Duration::ZERO, limit, false).await.is_ok();
        if released {
            self.begin_anew();
        }
        released
    }

    /// What has to come before the next attempt, in as long as `left` at most: giving back what could not be given back yet. Under another id
    /// this process would be refused by a lock of its own.
    pub(crate) async fn prepare(&mut self, left: Option<Duration>) -> Result<(), Error> {
        if self.too_late {
            let (lease, limit) = (self.claim.lease(None), self.limit(left));
            let answer = timeout(limit, self.shared.backend.release(&lease, Duration::ZERO)).await;
            if let Err(error) = answer.unwrap_or_else(|_| Err(no_reply(limit))) {
                return Err(error.with_ambiguous(true).with_operation(Operation::Acquire).with_name(&lease.name));
            }
            self.begin_anew();
        }
        Ok(())
    }

    fn begin_anew(&mut self) {
        (self.unanswered, self.too_late) = (None, false);
        Arc::make_mut(&mut self.claim).id = LeaseId::random();
    }

    fn limit(&self, left: Option<Duration>) -> Duration {
        left.map_or(self.attempt_timeout, |left| left.min(self.attempt_timeout))
    }

    /// Sends one attempt, which may take as long as `left` at most. With the answer comes the moment from which a granted lease counts.
    pub(crate) async fn attempt(&mut self, left: Option<Duration>) -> Result<(ClockReading, AcquireOutcome), Error> {
        let limit = self.limit(left);
        let sent = self.shared.clock.now();
        let before = self.unanswered;
        self.unanswered.get_or_insert(sent);
        let (backend, claim) = (Arc::clone(&self.shared.backend), Arc::clone(&self.claim));
        let call = self.call.insert(Box::pin(async move { backend.acquire(&claim).await }));
        let answer = timeout(limit, call.as_mut()).await;
        self.call = None;
        match answer.unwrap_or_else(|_| Err(no_reply(limit))) {
            Ok(answer) => {
                let from = self.unanswered.take().unwrap_or(sent);
                let (outcome, found) = match &answer {
                    AcquireOutcome::Granted(_) => (Outcome::Acquired, "acquired"),
                    AcquireOutcome::Contended(_) => (Outcome::Contended, "contended"),
                };
                if before.is_some() {
                    metrics::ambiguity_resolved("acquire", found);
                }
                metrics::attempt(outcome);
                Ok((from, answer))
            }
            Err(error) => {
                if !error.is_ambiguous() {
                    self.unanswered = before;
                }
                metrics::attempt(Outcome::Error);
                Err(error.with_operation(Operation::Acquire).with_name(&self.claim.name))
            }
        }
    }

    /// Sees to it in the background that the id holds no lock.
    fn abandon(&mut self) {
        let lease = self.claim.lease(None);
        tracing::debug!(name = %lease.name, id = %lease.id, "an acquisition was abandoned; making sure that it holds nothing");
        let (call, limit, shared) = (self.call.take(), self.attempt_timeout, Arc::clone(&self.shared));
        let work = async move |lease: Lease| {
            if let Some(call) = call {
                // A request that is only dropped may still arrive after the release; its answer says that it will not.
                // The call may be here because it panicked, and then does so again.
                let _ = timeout(limit, AssertUnwindSafe(call).catch_unwind()).await;
            }
            shared.release_repeatedly(&lease, Duration::ZERO, limit, false).await.is_ok()
        };
        // No guard was dropped, and none is counted.
        self.shared.in_background(&lease, Duration::ZERO, work, |_| ());
    }
}

impl Drop for PendingAcquire {
    fn drop(&mut self) {
        if self.unanswered.is_some() {
            self.abandon();
        }
    }
}
