//! One attempt to acquire: a read that judges the lock, and a write on condition of what was read.

use http::StatusCode;
use lock_core::{
    Error, ErrorKind, FencingToken,
    backend::{AcquireOutcome, AcquireRequest, Grant},
};

use crate::{
    backend::{LockState, ObjectBackend, Seen},
    error,
    memory::{LeaseWrites, Version},
    record::Record,
    store::{Tag, Written},
};

/// How many writes one attempt sends. The second follows if the first was refused and the lock is
/// free anyway.
const WRITES: usize = 2;

impl ObjectBackend {
    pub(crate) async fn attempt(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        if let Some(released) = self.free.take(&request.name) {
            // A process may release the lock of one before it without any acquisition.
            self.probe().await?;
            if let Some(grant) = self.take(request, Some(&released), None).await? {
                return Ok(AcquireOutcome::Granted(grant));
            }
        }
        let mut tried: Option<Option<Tag>> = None;
        for _ in 0..WRITES {
            let seen = self.look(&request.name).await?;
            if let Some(answer) = self.answer(request, &seen, tried.as_ref()) {
                return Ok(answer);
            }
            self.probe().await?;
            let granted = if seen.is_held_by(request.id) {
                self.prolong(request, &seen).await?
            } else {
                let crashed = (self.state(&seen) == LockState::Dead).then(|| self.holder(&seen));
                let granted = self.take(request, seen.version.as_ref(), Some(seen.date)).await?;
                granted.map(|grant| grant.with_crashed(crashed))
            };
            if let Some(grant) = granted {
                return Ok(AcquireOutcome::Granted(grant));
            }
            tried = Some(seen.tag().cloned());
        }
        let seen = self.look(&request.name).await?;
        match self.answer(request, &seen, tried.as_ref()) {
            Some(answer) => Ok(answer),
            None if seen.is_held_by(request.id) => Err(error::overtaken()),
            // Other clients were faster, twice, and have released the lock since.
            None => Ok(AcquireOutcome::Contended(self.holder(&seen).with_version(None))),
        }
    }

    /// Returns the answer if a read was enough for it. `tried` is the version that a refused write
    /// of this attempt required.
    fn answer(&self, request: &AcquireRequest, seen: &Seen, tried: Option<&Option<Tag>>) -> Option<AcquireOutcome> {
        if seen.is_held_by(request.id) {
            let version = seen.version.clone()?;
            // A write of this id took effect after the first read: the request was delivered twice,
            // or an earlier attempt arrived late. The core counts from the first of them.
            return tried.is_some_and(|tried| tried.as_ref() != seen.tag()).then(|| {
                let token = version.record.token();
                self.leases.put(request.id, LeaseWrites::Confirmed(Box::new(version)));
                AcquireOutcome::Granted(Grant::default().with_token(token).with_already_ours(true))
            });
        }
        self.current(seen).map(AcquireOutcome::Contended)
    }

    /// Writes a new acquisition over a free lock. `None` if another client was faster.
    async fn take(
        &self,
        request: &AcquireRequest,
        free: Option<&Version>,
        date: Option<i64>,
    ) -> Result<Option<Grant>, Error> {
        let now_us = self.mint_us(date);
        let previous = free.map(|version| &version.record);
        let previous_token = previous.and_then(Record::token);
        let token = FencingToken::next_after(previous_token, now_us, request.reserved_tokens)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "the tokens of this lock are used up; delete its object"))?;
        let record = Record::granted(previous, request, token, now_us);
        let on = free.map(|version| version.tag.clone());
        // Before the request, so that a release finds it if this future is dropped.
        let unanswered = LeaseWrites::Unanswered { on: on.clone(), record: Box::new(record.clone()) };
        let earlier = self.leases.get(&request.id);
        self.leases.put(request.id, unanswered);
        let written = self.put(&request.name, &record, on.as_ref()).await;
        match written {
            Ok(Written::Done(tag)) => {
                self.leases.put(request.id, LeaseWrites::Confirmed(Box::new(Version { tag, record })));
                Ok(Some(Grant::default().with_token(token).with_previous_token(previous_token)))
            }
            // It says only that some write is under way, which may be a copy of this one.
            Ok(Written::Refused(StatusCode::CONFLICT)) => Ok(None),
            // An earlier request to acquire may still be under way.
            Ok(Written::Refused(_)) => {
                self.leases.put_back(request.id, earlier);
                Ok(None)
            }
            Err(error) => {
                if !error.is_ambiguous() {
                    self.leases.put_back(request.id, earlier);
                }
                Err(error)
            }
        }
    }

    /// Lets a lock that this id holds last a whole ttl from now on. `None` if another write was
    /// faster.
    async fn prolong(&self, request: &AcquireRequest, seen: &Seen) -> Result<Option<Grant>, Error> {
        let Some(version) = &seen.version else { return Ok(None) };
        let record = version.record.renewed(request.ttl);
        match self.put(&request.name, &record, Some(&version.tag)).await? {
            Written::Done(tag) => {
                let token = record.token();
                self.leases.put(request.id, LeaseWrites::Confirmed(Box::new(Version { tag, record })));
                Ok(Some(Grant::default().with_token(token).with_already_ours(true)))
            }
            Written::Refused(_) => Ok(None),
        }
    }
}
