//! One acquisition on its way: every request of it carries one id, and none is left behind unanswered.

use std::{fmt, panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{sync::watch, time::timeout};

use crate::{
    backend::{Attempt, Backend, Claim, Release},
    clock::Moment,
    error::{Error, Operation},
    keeper::no_reply,
    lease::{Lease, LeaseId},
    locker::Shared,
    metrics::{self, Outcome},
};

type Call = Pin<Box<dyn Future<Output = Result<Attempt, Error>> + Send>>;

/// An acquisition that has not become a guard yet.
///
/// Dropping it, at any point, sees to it that its id holds no lock: a request still in flight is awaited in the background and undone.
pub(crate) struct Flight {
    shared: Arc<Shared>,
    pub(crate) claim: Arc<Claim>,
    attempt_timeout: Duration,
    call: Option<Call>,
    /// The earliest send that got no answer, since the last that did: it may be the one that is granted.
    unanswered: Option<Moment>,
    /// The id was granted the lock too late to be of use, and may hold it still.
    too_late: bool,
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight")
            .field("claim", &self.claim)
            .field("unanswered", &self.unanswered)
            .finish_non_exhaustive()
    }
}

impl Flight {
    pub(crate) fn new(shared: &Arc<Shared>, claim: Claim, attempt_timeout: Duration) -> Self {
        let (shared, claim) = (Arc::clone(shared), Arc::new(claim));
        Self { shared, claim, attempt_timeout, call: None, unanswered: None, too_late: false }
    }

    /// Sets the ttl of the next attempts.
    pub(crate) fn set_ttl(&mut self, ttl: Option<Duration>) {
        if self.claim.ttl != ttl {
            Arc::make_mut(&mut self.claim).ttl = ttl;
        }
    }

    /// Releases a lock that was granted too late to be of use, and goes on under a new id: the old one would count from `from`, its send,
    /// again. Says whether the store has confirmed it.
    pub(crate) async fn give_back(&mut self, from: Moment) -> bool {
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
    pub(crate) async fn attempt(&mut self, left: Option<Duration>) -> Result<(Moment, Attempt), Error> {
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
                    Attempt::Granted(_) => (Outcome::Acquired, "acquired"),
                    Attempt::Held(_) => (Outcome::Held, "held"),
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

impl Drop for Flight {
    fn drop(&mut self) {
        if self.unanswered.is_some() {
            self.abandon();
        }
    }
}

const RELEASE_ATTEMPTS: u32 = 3;
const RELEASE_PAUSE: Duration = Duration::from_millis(100);

impl Shared {
    /// Releases `lease`, up to three times while the store does not answer. Each attempt is bounded by `limit`. When the lock was not
    /// `held` before, a lost reply does not explain that it is not held now.
    pub(crate) async fn release_repeatedly(
        &self,
        lease: &Lease,
        hold_for: Duration,
        limit: Duration,
        held: bool,
    ) -> Result<Release, Error> {
        let mut ambiguous = false;
        let mut attempts = 1;
        loop {
            let answer =
                timeout(limit, self.backend.release(lease, hold_for)).await.unwrap_or_else(|_| Err(no_reply(limit)));
            match answer {
                // An earlier request had released it and its reply was lost.
                Ok(Release::NotHeld(_)) if ambiguous && held => {
                    metrics::ambiguity_resolved("release", "released");
                    return Ok(Release::Released);
                }
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_retryable() && attempts < RELEASE_ATTEMPTS => {
                    ambiguous |= error.is_ambiguous();
                    // Whatever made the store fail may need a moment to pass.
                    tokio::time::sleep(RELEASE_PAUSE * attempts).await;
                    attempts += 1;
                }
                Err(error) => {
                    let error = error.with_operation(Operation::Release).with_name(&lease.name);
                    return Err(error.with_store(self.backend.describe()));
                }
            }
        }
    }

    /// Frees `lease` without an `await`: at once if the backend can, else by `work` on a runtime, if there is one, which says whether
    /// it did. `became` is told once what became of the lock: `released`, `background` or `leaked`. Says whether the work goes on.
    pub(crate) fn in_background<F>(
        &self,
        lease: &Lease,
        hold_for: Duration,
        work: impl FnOnce(Lease) -> F,
        became: fn(&'static str),
    ) -> bool
    where
        F: Future<Output = bool> + Send + 'static,
    {
        if self.backend.release_now(lease, hold_for) {
            became("released");
            return false;
        }
        let counted = Counted::new(&self.releasing);
        let unfinished =
            Unfinished { lease: lease.clone(), backend: Arc::clone(&self.backend), became, freed: None, counted };
        let Some(runtime) = tokio::runtime::Handle::try_current().ok().or_else(|| self.runtime()) else { return false };
        let work = work(lease.clone());
        // The caller is a `Drop`, which cannot wait for the store.
        runtime.spawn(async move {
            let mut unfinished = unfinished;
            unfinished.freed = Some(work.await);
        });
        true
    }
}

/// A release in the background, which comes to nothing where there is no runtime, or one that ends and drops it.
struct Unfinished {
    lease: Lease,
    backend: Arc<dyn Backend>,
    became: fn(&'static str),
    freed: Option<bool>,
    #[expect(dead_code, reason = "counts until all else is done")]
    counted: Counted,
}

/// One of those that `Locker::settled` waits for.
struct Counted(watch::Sender<usize>);

impl Counted {
    fn new(releasing: &watch::Sender<usize>) -> Self {
        releasing.send_modify(|count| *count += 1);
        Self(releasing.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.freed == Some(true) {
            return (self.became)("background");
        }
        (self.became)("leaked");
        if self.freed.is_none() {
            tracing::warn!(name = %self.lease.name, "no runtime was there to release a lock on: it stays until its ttl ends, if it has one");
        }
        // What this process holds of it, such as an open file, would otherwise keep the lock for as long as the process lives.
        self.backend.lost(&self.lease);
    }
}
