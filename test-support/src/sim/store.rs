//! A faithful model of a lease store: what it does with each request, at the moment in which it
//! arrives.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use lock_core::{
    FencingToken, Holder, LockName, LossReason,
    backend::{AcquireOutcome, AcquireRequest, Grant, Lease, LeaseId, Release, Renewal},
};

use super::{
    Mistake,
    clock::EPOCH,
    messages::{Reply, Request},
};

/// How a store finds out that a holder is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// By its own clock, as Redis does.
    Clocked,
    /// It has no clock: a client that saw one version of the record for its holder's whole ttl
    /// writes over that version, as in DynamoDB.
    Observed,
}

#[derive(Debug)]
pub(super) struct Store {
    kind: Kind,
    mistake: Option<Mistake>,
    records: HashMap<LockName, Record>,
    /// Kept when a record is deleted.
    tokens: HashMap<LockName, FencingToken>,
    versions: u64,
}

#[derive(Debug, Clone)]
struct Record {
    id: LeaseId,
    owner: String,
    token: FencingToken,
    ttl: Duration,
    expires: Duration,
    version: u64,
}

impl Store {
    pub(super) fn new(kind: Kind, mistake: Option<Mistake>) -> Self {
        Self { kind, mistake, records: HashMap::new(), tokens: HashMap::new(), versions: 0 }
    }

    pub(super) fn handle(&mut self, now: Duration, request: &Request) -> Reply {
        match request {
            Request::Acquire { claim, dead } => Reply::Attempt(self.acquire(now, claim, *dead)),
            Request::Renew(lease) => Reply::Renewal(self.renew(now, lease)),
            Request::Release(lease) => Reply::Release(self.release(now, lease)),
            Request::Call(call) => unreachable!("a call is for a server: {call:?}"),
        }
    }

    fn is_dead(&self, record: &Record, now: Duration, dead: Option<u64>) -> bool {
        match self.kind {
            Kind::Clocked => now >= record.expires,
            Kind::Observed if self.mistake == Some(Mistake::TakeoverWithoutVersion) => dead.is_some(),
            Kind::Observed => dead == Some(record.version),
        }
    }

    fn acquire(&mut self, now: Duration, claim: &AcquireRequest, dead: Option<u64>) -> AcquireOutcome {
        let ttl = claim.ttl;
        self.versions += 1;
        let version = self.versions;
        let previous = self.records.get(&claim.name).cloned();
        if let Some(record) = previous.as_ref().filter(|record| !self.is_dead(record, now, dead)) {
            if record.id != claim.id || self.mistake == Some(Mistake::OwnLockTakenForForeign) {
                let mut holder = self.holder(record, now);
                if record.id != claim.id {
                    // An attempt may begin anew under another id, and then rightly meets what is
                    // left of the first.
                    holder.owner = Some(format!("{}, {}", record.owner, record.id));
                }
                return AcquireOutcome::Contended(holder);
            }
            let token = record.token;
            let renewed = Record { ttl, expires: now + ttl, version, ..record.clone() };
            self.records.insert(claim.name.clone(), renewed);
            return AcquireOutcome::Granted(Grant::default().with_token(token).with_already_ours(true));
        }
        let token = self.mint(claim, previous.as_ref(), now);
        let owner = claim.owner.clone();
        let record = Record { id: claim.id, owner, token, ttl, expires: now + ttl, version };
        self.records.insert(claim.name.clone(), record);
        let crashed = previous.map(|record| self.holder(&record, now));
        AcquireOutcome::Granted(Grant::default().with_token(token).with_crashed(crashed))
    }

    fn mint(&mut self, claim: &AcquireRequest, previous: Option<&Record>, now: Duration) -> FencingToken {
        let (name, reserved) = (&claim.name, claim.reserved_tokens);
        if self.mistake == Some(Mistake::TokenInDeletedRecord) {
            return FencingToken::next_after(previous.map(|record| record.token), 1, reserved).expect("small");
        }
        let micros = (EPOCH * 1e6) as u64 + u64::try_from(now.as_micros()).expect("a simulation is short");
        let previous = self.tokens.get(name).copied();
        let token = FencingToken::next_after(previous, micros, reserved).expect("far from 2255");
        self.tokens.insert(name.clone(), token);
        token
    }

    fn renew(&mut self, now: Duration, lease: &Lease) -> Renewal {
        self.versions += 1;
        let version = self.versions;
        let Some(record) = self.records.get(&lease.name).cloned() else { return Renewal::Lost(LossReason::RecordGone) };
        if record.id != lease.id {
            return Renewal::Lost(LossReason::TakenBy(Box::new(self.holder(&record, now))));
        }
        if self.is_dead(&record, now, None) {
            return Renewal::Lost(LossReason::Expired);
        }
        let ttl = lease.ttl;
        self.records.insert(lease.name.clone(), Record { ttl, expires: now + ttl, version, ..record });
        Renewal::Renewed
    }

    fn release(&mut self, now: Duration, lease: &Lease) -> Release {
        let Some(record) = self.records.get(&lease.name) else { return Release::NotHeld(None) };
        let blind = self.mistake == Some(Mistake::ReleaseWithoutComparison);
        if !blind && (record.id != lease.id || self.is_dead(record, now, None)) {
            return Release::NotHeld(Some(self.holder(record, now)));
        }
        self.records.remove(&lease.name);
        Release::Released
    }

    fn holder(&self, record: &Record, now: Duration) -> Holder {
        let expires_in = match self.kind {
            Kind::Clocked => record.expires.saturating_sub(now),
            // All that the record says; the client knows since when it has been so.
            Kind::Observed => record.ttl,
        };
        Holder::default()
            .with_owner(record.owner.clone())
            .with_token(record.token)
            .with_since(SystemTime::UNIX_EPOCH)
            .with_expires_in(expires_in)
            .with_version(record.version.to_string())
    }
}
