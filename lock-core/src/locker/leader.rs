//! One leader among many candidates, and followers that take over.

use std::{fmt, future::Future, pin::Pin};

use futures_util::stream::{self, Stream};

use crate::{
    backend::Release,
    locker::{guard::Guard, request::LockRequest},
    mutex::Mutex,
    types::{Error, FencingToken, Lost},
};

/// A candidate in the election of a leader: whoever holds the lock leads, the others wait and take over.
///
/// Drive it with [`next`](Self::next), which tells when to begin and when to stop; or with [`campaign`](Self::campaign) and
/// [`Guard::run`], which drops the leader's work by itself. Below, each bullet names the case of the conformance kit
/// (feature `testing`) that checks it.
///
/// - Of many candidates at most one leads, and each leads in the end (`of_many_candidates_one_leads`).
/// - A leader that is cut off from its store is told to stop before the next one is elected, where the store declares the capability
///   `loss-signal` (`a_leader_that_is_cut_off_stops_before_the_next_starts`). It stays a candidate.
/// - A leader that resigns makes way at once (`a_leader_that_resigns_makes_way_at_once`).
/// - A campaign goes on through errors of the store that may pass (`a_campaign_survives_errors_of_the_store`).
/// - A candidate that goes away leaves no lock behind, whenever it goes (`a_candidate_that_goes_away_leaves_no_leader`).
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
    /// Kept between calls, so that a call that is dropped loses neither the place in the queue nor a granted lock. In a mutex,
    /// which nobody ever locks, because it makes the future `Sync`.
    Campaigning(Mutex<Campaign>),
    Leading(Guard),
    /// The leader was told to stop. It keeps the lock, if that is still valid, until it says that it has stopped.
    Stopping(Guard),
}

/// What has become of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// This candidate leads from now on, with the fencing token of its term, where the store mints them.
    Elected(Option<FencingToken>),
    /// This candidate does not lead any more and has to stop, before the next leader can be elected. The request's
    /// [`grace`](LockRequest::grace) is how long it may take for that.
    Lost(Lost),
}

impl LeaderElection {
    /// A candidate for the lock that `request` describes. It stands from the first call of [`next`](Self::next) or
    /// [`campaign`](Self::campaign) on.
    ///
    /// A [`deadline`](LockRequest::deadline) counts anew for each campaign, and [`max_hold`](LockRequest::max_hold) bounds each term.
    pub fn new(request: LockRequest) -> Self {
        Self { request, state: State::Idle }
    }

    /// Waits for what happens next: elected, lost, elected again. Calling it after [`Leadership::Lost`] says that this
    /// candidate has stopped leading, and makes it stand again.
    ///
    /// # Errors
    /// When trying again cannot help, such as a wrong option or a missing permission. Errors that may pass are waited through. The next
    /// call campaigns anew.
    ///
    /// # Cancel safety
    /// Cancel safe, for use in `select!`: neither the place among the waiters nor an event is lost. A campaign goes on only while it is polled.
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

    /// All that [`next`](Self::next) says, as a stream.
    pub fn events(&mut self) -> impl Stream<Item = Result<Leadership, Error>> + Send + '_ {
        stream::unfold(self, async |election| Some((election.next().await, election)))
    }

    /// Waits until this candidate leads, and returns the guard of its term; at once while it leads. A term that is over is left first.
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

    /// The guard of the current term; `None` unless this candidate leads, by the clocks, at this moment. No I/O: ask before each
    /// step that only the leader may take.
    pub fn leader(&self) -> Option<&Guard> {
        match &self.state {
            State::Leading(guard) if !guard.is_stopping() => Some(guard),
            _ => None,
        }
    }

    /// Gives up the lead or the candidacy. The next leader can be elected at once. [`Release::NotHeld`] when this candidate did not lead.
    ///
    /// # Errors
    /// As [`Guard::release`].
    ///
    /// # Cancel safety
    /// Cancel safe in that the lead is given up in any case: dropping the future leaves the rest to the background.
    pub async fn resign(&mut self) -> Result<Release, Error> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Leading(guard) | State::Stopping(guard) => guard.release().await,
            State::Idle | State::Campaigning(_) => Ok(Release::NotHeld(None)),
        }
    }

    async fn elected(&mut self) -> Result<&Guard, Error> {
        if matches!(self.state, State::Idle | State::Stopping(_)) {
            // The guard of a term that is over goes first, and releases in the background what it still holds.
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

/// Acquires, for as long as it takes.
async fn campaign(request: LockRequest) -> Result<Guard, Error> {
    loop {
        match request.clone().acquire().await {
            Err(error) if error.is_retryable() => tracing::warn!(%error, "still a candidate while the store fails"),
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
