//! Leader election: one of many candidates leads, and another one takes over.

use std::{fmt, future::Future, pin::Pin};

use futures_util::stream::{self, Stream};

use crate::{
    backend::Release,
    locker::{guard::Guard, request::LockRequest},
    mutex::Mutex,
    types::{Error, FencingToken, Lost},
};

/// A candidate in a leader election: the holder of the lock leads, the other candidates wait.
///
/// There are two ways to use it. [`next`](Self::next) returns when to start and when to stop
/// leading. [`campaign`](Self::campaign) with [`Guard::run`] drops the leader's work by itself.
///
/// Each bullet below names the case of the conformance suite (feature `testing`) that checks it.
///
/// - Of many candidates at most one leads, and each one leads eventually
///   (`exactly_one_of_many_candidates_leads`).
/// - If the store has the capability `loss-signal`, a leader that is cut off from it stops before
///   the next one is elected (`an_isolated_leader_stops_before_the_next_starts`). It stays a
///   candidate.
/// - After a leader resigns, the next one can be elected immediately
///   (`a_resigning_leader_is_replaced_immediately`).
/// - A campaign continues through transient errors of the store
///   (`a_campaign_survives_retryable_store_errors`).
/// - A candidate that is dropped leaves no lock behind
///   (`a_dropped_candidate_leaves_no_leader_behind`).
///
/// ```
/// use lock_core::{Leadership, LeaderElection, Locker, memory::MemoryBackend};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lock_core::Error> {
/// let locker = Locker::new(MemoryBackend::new())?;
/// let mut election = LeaderElection::new(locker.lock("scheduler"));
/// loop {
///     match election.next().await? {
///         Leadership::Elected(token) => println!("leading, token {token:?}"),
///         Leadership::Lost(lost) => println!("stop: {lost}"),
///     }
/// #   break;
/// }
/// election.resign().await?;
/// # Ok(())
/// # }
/// ```
pub struct LeaderElection {
    request: LockRequest,
    state: State,
}

type Campaign = Pin<Box<dyn Future<Output = Result<Guard, Error>> + Send>>;

enum State {
    Idle,
    /// Kept between calls, so that a dropped call loses neither the place in the queue nor a
    /// granted lock. The mutex is never locked; it makes the future `Sync`.
    Campaigning(Mutex<Campaign>),
    Leading(Guard),
    /// The leader was told to stop. It keeps the lock, if still valid, until it confirms that it
    /// has stopped.
    Stopping(Guard),
}

/// A change in the state of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// This candidate leads from now on. Contains the fencing token of its term, if the store
    /// issues them.
    Elected(Option<FencingToken>),
    /// This candidate has to stop leading, before the next leader can be elected. The request's
    /// [`grace`](LockRequest::grace) is the time that it has to stop.
    Lost(Lost),
}

impl LeaderElection {
    /// Creates a candidate for the lock that `request` describes. It starts campaigning at the
    /// first call to [`next`](Self::next) or [`campaign`](Self::campaign).
    ///
    /// A [`deadline`](LockRequest::deadline) starts again with each campaign.
    /// [`max_hold`](LockRequest::max_hold) limits each term.
    pub fn new(request: LockRequest) -> Self {
        Self { request, state: State::Idle }
    }

    /// Waits for the next change: elected, lost, elected again. A call after [`Leadership::Lost`]
    /// confirms that this candidate has stopped leading, and starts a new campaign.
    ///
    /// # Errors
    /// If a retry cannot help, as with an invalid option or a missing permission. Transient errors
    /// are retried. The next call starts a new campaign.
    ///
    /// # Cancel safety
    /// Cancel safe, for use in `select!`: neither the place in the queue nor a change is lost. A
    /// campaign makes progress only while it is polled.
    pub async fn next(&mut self) -> Result<Leadership, Error> {
        if let State::Leading(guard) = &self.state {
            let lost = guard.stop_requested().await;
            self.state = match std::mem::replace(&mut self.state, State::Idle) {
                State::Leading(guard) => State::Stopping(guard),
                other => other,
            };
            return Ok(Leadership::Lost(lost));
        }
        Ok(Leadership::Elected(self.elected().await?.token()))
    }

    /// Returns the results of [`next`](Self::next) as a stream.
    pub fn events(&mut self) -> impl Stream<Item = Result<Leadership, Error>> + Send + '_ {
        stream::unfold(self, async |election| Some((election.next().await, election)))
    }

    /// Waits until this candidate leads, and returns the guard of its term. Returns immediately
    /// while it leads. Ends a term that is over first.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    ///
    /// # Cancel safety
    /// As [`next`](Self::next).
    pub async fn campaign(&mut self) -> Result<&Guard, Error> {
        if let State::Leading(guard) = &self.state
            && guard.is_stopping()
        {
            self.state = State::Idle;
        }
        self.elected().await
    }

    /// Returns the guard of the current term, or `None` if this candidate does not lead now by its
    /// clocks. Makes no request; call it before each step that only the leader may take.
    pub fn leader(&self) -> Option<&Guard> {
        match &self.state {
            State::Leading(guard) if !guard.is_stopping() => Some(guard),
            _ => None,
        }
    }

    /// Gives up leadership or the candidacy. The next leader can be elected immediately. Returns
    /// [`Release::NotHeld`] if this candidate did not lead.
    ///
    /// # Errors
    /// As [`Guard::release`].
    ///
    /// # Cancel safety
    /// Cancel safe: if the future is dropped, the release continues in the background.
    pub async fn resign(&mut self) -> Result<Release, Error> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Leading(guard) | State::Stopping(guard) => guard.release().await,
            State::Idle | State::Campaigning(_) => Ok(Release::NotHeld(None)),
        }
    }

    async fn elected(&mut self) -> Result<&Guard, Error> {
        if matches!(self.state, State::Idle | State::Stopping(_)) {
            // Drops the guard of an ended term first, which releases its lock in the background.
            self.state = State::Idle;
            self.state = State::Campaigning(Mutex::new(Box::pin(campaign(self.request.clone()))));
        }
        if let State::Campaigning(campaign) = &mut self.state {
            let outcome = campaign.get_mut().await;
            self.state = State::Idle;
            self.state = State::Leading(outcome?);
        }
        match &self.state {
            State::Leading(guard) => Ok(guard),
            _ => unreachable!("every other state was left above"),
        }
    }
}

/// Acquires the lock, and retries transient errors without a limit.
async fn campaign(request: LockRequest) -> Result<Guard, Error> {
    loop {
        match request.clone().acquire().await {
            Err(error) if error.is_retryable() => tracing::warn!(%error, "campaign continues: the store failed"),
            outcome => return outcome,
        }
    }
}

impl fmt::Debug for LeaderElection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Idle => "idle",
            State::Campaigning(_) => "campaigning",
            State::Leading(_) => "leading",
            State::Stopping(_) => "stopping",
        };
        f.debug_struct("LeaderElection").field("request", &self.request).field("state", &state).finish()
    }
}
