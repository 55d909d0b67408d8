//! Sends the requests of an acquisition to the store.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{AcquireLoop, Before};
use crate::{
    backend::{AcquireOutcome, AcquireRequest},
    engine::{
        acquisition::PendingAcquire,
        hand_over::HandOvers,
        hold::LeaseState,
        queue::{KnownHolder, Turn},
        repeats::Repeats,
        stand_back::Others,
    },
    locker::{guard::Guard, outcome::TryAcquire},
    types::{ClockReading, Error, ErrorKind, Holder, Lease, LeaseId},
};

/// An acquisition that needs the store. Waiters that take a lease over never get here, so nothing
/// is made for them.
pub(super) struct Contender<'a> {
    pub(super) acquiring: &'a AcquireLoop,
    pub(super) pending: PendingAcquire,
}

impl<'a> Contender<'a> {
    /// Makes the request, which has the `turn` of this process, and is repeated if it `waits`.
    pub(super) fn new(acquiring: &'a AcquireLoop, turn: Option<Turn>, before: Before, waits: bool) -> Self {
        let (shared, options, timing) = (&acquiring.shared, acquiring.options(), acquiring.timing());
        let mut request = AcquireRequest::new(acquiring.name.clone(), LeaseId::NONE, acquiring.owner())
            .with_data(options.data.clone())
            .with_mode(options.mode)
            .with_waits(waits)
            .with_fair(options.fair);
        if let Some(ttl) = timing.ttl {
            request.ttl = ttl;
        }
        if waits && turn.as_ref().is_some_and(Turn::has_waiters) {
            // For the waiters behind this one. Before the first attempt, because a store gives no
            // more tokens to an id that holds the lock already.
            request.reserved_tokens = acquiring.hand_over();
        }
        let mut pending = PendingAcquire::new(shared, request, timing.attempt_timeout, turn);
        match before {
            Before::Nothing => {}
            Before::Release(release) => pending.follow(release, options.mode.may_be_joined()),
            Before::Lease(hold) => pending.take_over(hold.lease.clone(), hold.confirmed()),
        }
        Self { acquiring, pending }
    }

    /// Makes one attempt and returns its outcome.
    #[tracing::instrument(level = "debug", name = "attempt", skip_all, fields(name = %self.acquiring.name))]
    pub(super) async fn attempt(&mut self) -> Result<TryAcquire, Error> {
        self.pending.prepare(self.acquiring.left()).await?;
        if self.acquiring.is_too_late() {
            return Err(self.acquiring.too_late());
        }
        let left = self.acquiring.left();
        let (ttl, valid_for) = self.acquiring.timing().lease_for(left);
        if let Some(ttl) = ttl {
            self.pending.set_ttl(ttl);
        }
        let (from, answer) = self.pending.attempt(left).await?;
        let grant = match answer {
            AcquireOutcome::Granted(grant) => grant,
            AcquireOutcome::Contended(holder) => {
                self.note_held(&holder);
                return Ok(TryAcquire::Contended(holder));
            }
        };
        let pace = || self.acquiring.shared.pace();
        self.note_others(|others| others.note_grant(grant.token, grant.previous_token, pace()));
        let hold = self.hold(self.pending.request.lease(grant.token), from, valid_for);
        let hold = match self.pending.request.reserved_tokens {
            0 => hold,
            left => hold.with_hand_overs(HandOvers { request: Arc::clone(&self.pending.request), left, granted: from }),
        };
        let now = hold.now();
        if hold.is_valid(now) {
            return Ok(TryAcquire::Acquired(self.guard(hold, from, now, grant.crashed)));
        }
        // Granted, but the lease expired before the reply arrived.
        let given_back = self.pending.give_back(from).await;
        if self.acquiring.is_too_late() {
            return Err(self.acquiring.too_late().with_ambiguous(!given_back));
        }
        let what = "the store's reply arrived after the lease had expired; use a longer ttl if the store has one";
        Err(Error::new(ErrorKind::Timeout, what).with_ambiguous(!given_back))
    }

    fn hold(&self, lease: Lease, from: ClockReading, valid_for: Option<Duration>) -> LeaseState {
        let store = Arc::clone(&self.acquiring.shared.lease_store);
        LeaseState::new(lease, *self.acquiring.timing(), self.acquiring.limits(), from, valid_for, store)
    }

    /// Notes what this attempt tells of other processes.
    pub(super) fn note_others(&self, note: impl FnOnce(&mut Others)) {
        if self.acquiring.hand_over() > 0
            && let Some(turn) = &self.pending.turn
        {
            turn.with_others(note);
        }
    }

    fn guard(&mut self, hold: LeaseState, from: ClockReading, now: ClockReading, crashed: Option<Holder>) -> Guard {
        if let Some(turn) = &self.pending.turn {
            let (request, since) = (Arc::clone(&self.pending.request), SystemTime::UNIX_EPOCH + from.wall);
            turn.note_holder(KnownHolder::Guard { request, token: hold.token(), since });
        }
        let turn = self.pending.turn.take();
        // Others of this process may join a lock that is not exclusive.
        hold.keep_turn(turn.filter(|_| !self.pending.request.mode.may_be_joined()));
        let hold = Arc::new(hold);
        self.acquiring.shared.renewer.keep(&hold, now);
        Guard::new(hold, Arc::clone(&self.acquiring.shared), crashed)
    }

    fn note_held(&self, holder: &Holder) {
        if let Some(turn) = &self.pending.turn {
            turn.note_holder(KnownHolder::Reported(Box::new(holder.clone())));
        }
        self.note_others(Others::note_refusal);
        if let Some(observer) = &self.acquiring.observers.on_contention {
            observer(holder);
        }
    }

    /// Makes an attempt without waiting. Repeats it only while the store does not reply, or replies
    /// that it has too many requests.
    pub(super) async fn answer_now(&mut self) -> Result<TryAcquire, Error> {
        let mut repeats = None;
        loop {
            self.pending.wait_for_release(Some(self.acquiring.timing().attempt_timeout)).await;
            let answer = self.attempt().await;
            let Err(error) = &answer else { return answer };
            let (first, now) = (self.acquiring.shared.backend.timings().poll_min, self.acquiring.shared.clock.now());
            let repeats =
                repeats.get_or_insert_with(|| Repeats::new(first, self.acquiring.timing().attempt_timeout, now));
            let Some((pause, goes_on)) = repeats.after(error, now) else { return answer };
            let left = self.acquiring.left();
            if left.is_some_and(|left| left <= pause) {
                return answer;
            }
            self.acquiring.note_retry(error, left.map_or(goes_on, |left| left.min(goes_on)));
            tokio::time::sleep(pause).await;
        }
    }
}
