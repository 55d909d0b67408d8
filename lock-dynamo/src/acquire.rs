//! Acquires a lock: one request takes a free lock, and a refusal is judged by the record it
//! returns.

use std::time::{Duration, SystemTime};

use aws_sdk_dynamodb::types::ReturnValue;
use lock_core::{
    Error, ErrorKind, FencingToken, Holder, LockName,
    backend::{AcquireOutcome, AcquireRequest, Grant, StoreTime},
};

use crate::{
    backend::DynamoBackend,
    client::seconds,
    config::Takeover,
    error::stranger,
    fair::Turn,
    held::overtaken,
    joined::released_meanwhile,
    record::{Item, LockState, Record},
    send::WriteOutcome,
    write::ConditionalWrite,
};

/// What a record means for a client that wants the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No client holds the lock.
    Free,
    /// The holder is dead: its lease is over.
    Dead,
    /// The lock is held. It becomes free after this long unless the holder renews it. `None` if the
    /// record states no lease.
    Held(Option<Duration>),
    /// The recorded lease is over, but this machine's clock cannot be trusted to judge it. The
    /// clock is off by this many microseconds, if known.
    Undecided(Option<i64>),
}

impl DynamoBackend {
    /// Makes one attempt. The first request takes a free lock, and is the only one unless the
    /// holder is dead. A second request takes over from a dead holder, if the record is still the
    /// one that refused the first request.
    pub(crate) async fn attempt(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        let (unmark, mut queued) = (self.waiting_marks.contains(request.id), self.queued.contains(request.id));
        // The previous token, which only hand-overs need.
        let returned = (request.reserved_tokens > 0).then_some(ReturnValue::AllOld);
        let item = loop {
            let (layout, now) = (&self.config.layout, self.clock.now());
            let token = next_token(None, now, request.reserved_tokens)?;
            let write = ConditionalWrite::take_free(layout, request, now, token, self.idle(), unmark, queued);
            let version = write.version.clone();
            match self.update_and_return(&request.name, write, returned.clone()).await? {
                Ok(before) => {
                    let previous = before.and_then(|item| self.read(&item).fence);
                    return self.granted(request, now, (token, previous), &version, None).await;
                }
                Err(Some(item)) => break item,
                Err(None) if queued => {
                    // The item is gone, and the queue with it. Without the permission to read, only
                    // another write can tell.
                    queued = false;
                }
                // Some emulators do not return the item with the refusal: read it.
                Err(None) => match self.item(self.client().await?, &request.name).await? {
                    Some(item) => break item,
                    None => return Ok(AcquireOutcome::Contended(Holder::default())),
                },
            }
        };
        let record = self.read(&item);
        if record.is_stranger() {
            return Err(stranger(&request.name, &self.config));
        }
        if record.id == Some(request.id) && record.joined.is_none() {
            return self.again(request, &record).await;
        }
        let turn = match self.judge(&request.name, &record) {
            Verdict::Free | Verdict::Dead => self.turn(request, &record),
            Verdict::Held(_) => {
                if record.joined.is_some() {
                    self.mark(request).await?;
                }
                Err(Box::new(self.holder(&request.name, &record)))
            }
            Verdict::Undecided(skew) => {
                self.queue(request, &record).await?;
                return Err(self.undecided(skew, &record));
            }
        };
        match turn {
            Ok(turn) => self.take_over(request, &record, &turn).await,
            Err(holder) => self.refuse(request, &record, *holder).await,
        }
    }

    /// Judges whether the lock of `record`, which has just been read, can be acquired.
    pub(crate) fn judge(&self, name: &LockName, record: &Record) -> Verdict {
        if let Some(joined) = &record.joined {
            return self.judge_joined(joined);
        }
        let now = self.clock.now_at_least();
        match record.state {
            LockState::Released => return Verdict::Free,
            LockState::FreeAt(until) => {
                let left = Record::until(now, until);
                return if left.is_zero() { Verdict::Free } else { Verdict::Held(Some(left)) };
            }
            LockState::Held => {}
        }
        self.judge_lease(name, &record.version, record.lease, record.expires, now)
    }

    /// Judges by the clock, and by how long `version` has been the same, whether a lease is over.
    pub(crate) fn judge_lease(
        &self,
        name: &LockName,
        version: &str,
        lease: Option<Duration>,
        expires: Option<i64>,
        now: StoreTime,
    ) -> Verdict {
        let unchanged_for = self.observations.unchanged_for(name, version, now.moment);
        let by_watching = lease.map(|lease| lease.saturating_sub(unchanged_for));
        if by_watching == Some(Duration::ZERO) {
            return Verdict::Dead;
        }
        let bound = i64::try_from(self.config.skew_bound.as_millis()).unwrap_or(i64::MAX / 4);
        let by_clock = expires
            .filter(|_| self.config.takeover == Takeover::Absolute)
            .map(|expires| Record::until(now, expires.saturating_add(bound)));
        let trusted = self.clock.is_trusted(now.moment);
        match by_clock {
            Some(Duration::ZERO) if trusted => Verdict::Dead,
            Some(Duration::ZERO) => Verdict::Undecided(self.clock.skew(now.moment)),
            by_clock => Verdict::Held([by_clock.filter(|_| trusted), by_watching].into_iter().flatten().min()),
        }
    }

    /// Describes the holder of a contended lock, for messages and waiters.
    pub(crate) fn holder(&self, name: &LockName, record: &Record) -> Holder {
        if let Some(joined) = &record.joined {
            return self.holders(joined).unwrap_or_default();
        }
        let holder = match self.judge(name, record) {
            Verdict::Held(free_in) => record.holder(free_in),
            Verdict::Free | Verdict::Dead | Verdict::Undecided(_) => record.holder(Some(Duration::ZERO)),
        };
        holder.with_store_time(self.store_time())
    }

    /// The store's time. `None` before a reply has shown it.
    pub(crate) fn store_time(&self) -> Option<SystemTime> {
        let now = self.clock.now();
        self.clock.skew(now.moment)?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(u64::try_from(now.micros).ok()?))
    }

    async fn take_over(
        &self,
        request: &AcquireRequest,
        seen: &Record,
        turn: &Turn<'_>,
    ) -> Result<AcquireOutcome, Error> {
        let now = self.clock.now();
        let token = next_token(seen.fence, now, request.reserved_tokens)?;
        let unmark = self.waiting_marks.contains(request.id);
        let write =
            ConditionalWrite::take_over(&self.config.layout, request, now, Some(token), self.idle(), seen, unmark)
                .in_turn(turn);
        let version = write.version.clone();
        match self.update(&request.name, write).await? {
            WriteOutcome::Done => {
                let tokens = (token, seen.fence);
                self.granted(request, now, tokens, &version, self.crashed(seen)).await
            }
            // Another client was faster, or the holder has renewed.
            WriteOutcome::Refused(item) => self.beaten(request, item).await,
        }
    }

    /// Describes the holder of `seen`, or its holders, if they died.
    pub(crate) fn crashed(&self, seen: &Record) -> Option<Holder> {
        match &seen.joined {
            Some(joined) => self.crashed_holders(joined),
            None => (seen.state == LockState::Held).then(|| seen.holder(Some(Duration::ZERO))),
        }
    }

    /// Another client has changed the record between two requests of one attempt.
    pub(crate) async fn beaten(&self, request: &AcquireRequest, item: Option<Item>) -> Result<AcquireOutcome, Error> {
        let Some(record) = item.map(|item| self.read(&item)) else {
            return Ok(AcquireOutcome::Contended(Holder::default()));
        };
        if record.is_held_by(request.id) {
            return Err(overtaken());
        }
        if record.joined.is_some() {
            self.mark(request).await?;
        }
        self.refuse(request, &record, self.holder(&request.name, &record)).await
    }

    /// Handles an item with our id: an earlier request of this attempt arrived, but its reply was
    /// lost.
    async fn again(&self, request: &AcquireRequest, record: &Record) -> Result<AcquireOutcome, Error> {
        if record.state != LockState::Held {
            return Err(released_meanwhile());
        }
        match self.correct(&request.lease(record.fence), &record.version).await? {
            WriteOutcome::Done => {
                self.observations.forget(&request.name);
                Ok(AcquireOutcome::Granted(Grant::default().with_token(record.fence).with_already_ours(true)))
            }
            WriteOutcome::Refused(item) => self.beaten(request, item).await,
        }
    }

    /// Completes a grant that was written at `at` as this version of the item, with this token
    /// after the previous one. If the clock was wrong then, the expiry and the token are wrong too,
    /// and are corrected first.
    async fn granted(
        &self,
        request: &AcquireRequest,
        at: StoreTime,
        (mut token, previous): (FencingToken, Option<FencingToken>),
        version: &str,
        crashed: Option<Holder>,
    ) -> Result<AcquireOutcome, Error> {
        let layout = &self.config.layout;
        if !self.stands(at) {
            let now = self.clock.now();
            token = next_token(Some(token), now, request.reserved_tokens)?;
            let lease = request.lease(Some(token));
            let write = ConditionalWrite::correct_grant(layout, &lease, now, token, self.idle(), version);
            if let WriteOutcome::Refused(item) = self.write_again(&request.name, write).await? {
                // The expiry was written too early, so another client may legitimately hold the
                // lock now.
                return self.beaten(request, item).await;
            }
        }
        self.observations.forget(&request.name);
        self.waiting_marks.remove(request.id);
        self.queued.remove(request.id);
        let token = layout.fences().then_some(token);
        let grant = Grant::default().with_token(token).with_crashed(crashed);
        Ok(AcquireOutcome::Granted(grant.with_previous_token(previous)))
    }

    pub(crate) fn undecided(&self, skew: Option<i64>, record: &Record) -> Error {
        let joined = record.joined.as_ref().and_then(|joined| self.holders(joined));
        self.undecided_holder(skew, joined.unwrap_or_else(|| record.holder(None)))
    }

    /// The error for a holder that is neither alive nor dead for sure.
    pub(crate) fn undecided_holder(&self, skew: Option<i64>, holder: Holder) -> Error {
        let store = self.config.name();
        metrics::counter!("onelock_dynamodb_takeovers_refused_total", "store" => store).increment(1);
        let off = match skew {
            Some(skew) => format!("this machine's clock differs from the store's by {:+.1} s", seconds(skew)),
            None => "the store's replies have no Date header".to_owned(),
        };
        let holder = holder.with_store_time(self.store_time());
        let message = format!(
            "the lease of {holder} is over, but {off}, so this machine cannot take over by time (skew bound {:?}); \
             set the clock, or wait until the record has stayed unchanged for a whole lease",
            self.config.skew_bound
        );
        // Each retry also observes the record, so retrying succeeds in the end.
        Error::new(ErrorKind::Config, message).with_retryable(true)
    }
}

/// The token of a grant at `now` that reserves `reserved` further tokens: the last of them.
pub(crate) fn next_token(previous: Option<FencingToken>, now: StoreTime, reserved: u32) -> Result<FencingToken, Error> {
    FencingToken::next_after(previous, u64::try_from(now.micros).unwrap_or(0), reserved).ok_or_else(|| {
        let message = "the fencing token in the item or this machine's clock is past the year 2255; correct the item \
            or the clock";
        Error::new(ErrorKind::Corrupt, message)
    })
}
