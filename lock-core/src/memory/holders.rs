//! The holders of one name, and the requests that wait for them.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::{
    backend::{AcquireRequest, Release},
    types::{Error, FencingToken, Holder, Lease, LeaseId, LossReason, Mode},
};

/// How many broken holders of a name are remembered, to tell them who broke their locks.
const REMEMBERED: usize = 100;

/// The holders of one name. Those that are held at one time have the same mode.
#[derive(Debug, Default)]
pub(super) struct Holders {
    records: Vec<Record>,
    waiting: Option<Waiting>,
    /// The fair requests, in their order.
    places: Vec<Waiting>,
    /// The holders whose locks an operator broke, and who did.
    broken: Vec<(LeaseId, String)>,
}

/// A lock that is held, or that is kept for a while after its release.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) id: LeaseId,
    mode: Mode,
    owner: String,
    data: Option<Vec<u8>>,
    token: FencingToken,
    since: SystemTime,
    acquired: Instant,
    expires: Instant,
    released: bool,
}

/// A request that waits: for holders of another mode, which nothing joins meanwhile, or in the
/// queue of fair requests.
#[derive(Debug)]
struct Waiting {
    id: LeaseId,
    mode: Mode,
    owner: String,
    until: Instant,
}

impl Waiting {
    fn new(request: &AcquireRequest, now: Instant) -> Self {
        Self { id: request.id, mode: request.mode, owner: request.owner.clone(), until: now + request.ttl }
    }

    /// Returns the request as a refusal by a free lock names it.
    fn holder(&self, now: Instant) -> Holder {
        let left = self.until.duration_since(now);
        Holder::default().with_owner(self.owner.clone()).with_mode(self.mode).with_expires_in(left)
    }
}

/// The decision about a request.
pub(super) enum Decision {
    /// The id holds the lock already, with this token.
    Ours(FencingToken),
    /// The lock can be granted. The holders that crashed are reported.
    Free(Option<Holder>),
    Contended(Holder),
}

impl Record {
    pub(super) fn new(request: &AcquireRequest, token: FencingToken, since: SystemTime, now: Instant) -> Self {
        Self {
            id: request.id,
            mode: request.mode,
            owner: request.owner.clone(),
            data: request.data.clone(),
            token,
            since,
            acquired: now,
            expires: now + request.ttl,
            released: false,
        }
    }

    fn holder(&self, now: Instant) -> Holder {
        Holder::default()
            .with_owner(self.owner.clone())
            .with_token(self.token)
            .with_since(self.since)
            .with_held_for(now.duration_since(self.acquired))
            .with_expires_in(self.expires.duration_since(now))
            .with_data(self.data.clone())
            .with_version((!self.released).then(|| self.id.to_string()))
            .with_mode(self.mode)
    }

    /// Whether the lock is held, or kept after its release.
    fn is_kept(&self, now: Instant) -> bool {
        now < self.expires
    }

    fn is_held_by(&self, id: LeaseId, now: Instant) -> bool {
        self.id == id && !self.released && self.is_kept(now)
    }
}

impl Holders {
    fn kept(&self, now: Instant) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.is_kept(now))
    }

    fn held_by(&mut self, id: LeaseId, now: Instant) -> Option<&mut Record> {
        self.records.iter_mut().find(|record| record.is_held_by(id, now))
    }

    fn broken_by(&self, id: LeaseId) -> Option<&str> {
        self.broken.iter().find(|(broken, _)| *broken == id).map(|(_, by)| by.as_str())
    }

    /// Returns the present holders as one.
    pub(super) fn holder(&self, now: Instant) -> Option<Holder> {
        Holder::of_several(self.kept(now).map(|record| record.holder(now)).collect())
    }

    /// Whether no holder and no waiter is left, and no crash has to be reported.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.records.iter().all(|record| record.released && !record.is_kept(now))
            && self.waiting.iter().chain(&self.places).all(|waiting| waiting.until <= now)
    }

    /// Whether nothing has to be remembered.
    pub(super) fn is_empty(&self, now: Instant) -> bool {
        self.broken.is_empty() && self.is_idle(now)
    }

    /// Decides about `request`, and notes that it waits.
    pub(super) fn decide(&mut self, request: &AcquireRequest, now: Instant) -> Result<Decision, Error> {
        if let Some(record) = self.held_by(request.id, now) {
            record.expires = now + request.ttl;
            return Ok(Decision::Ours(record.token));
        }
        self.waiting.take_if(|waiting| waiting.until <= now);
        self.places.retain(|place| place.until > now);
        let present = self.kept(now).next().map(|record| record.mode);
        let other = self.waiting.as_ref().filter(|waiting| waiting.mode != request.mode);
        if let Some(waiting) = other.filter(|_| request.mode.may_be_joined()) {
            let holder = self.holder(now).unwrap_or_else(|| waiting.holder(now));
            self.note_place(request, now);
            return Ok(Decision::Contended(holder));
        }
        if let Some(present) = present {
            request.require_same_permits(present)?;
        }
        let first = self.first_before(request).map(|place| place.holder(now));
        if first.is_none() && present.is_none_or(|present| present == request.mode) && self.has_room(request, now) {
            return Ok(Decision::Free(self.crashed(now)));
        }
        // Behind the places a new mark would make this request the first. They came after a mark
        // that stands.
        let may_mark = match &self.waiting {
            Some(waiting) => waiting.id == request.id,
            None => self.places.is_empty(),
        };
        let may_mark = may_mark && request.waits && !request.fair;
        if may_mark && present.is_some_and(|present| present != request.mode) {
            self.waiting = Some(Waiting::new(request, now));
        }
        let holder = self.holder(now).or(first);
        let holder = holder.or_else(|| self.places.first().map(|place| place.holder(now)));
        self.note_place(request, now);
        Ok(Decision::Contended(holder.expect("a holder or a place refuses the request")))
    }

    /// Returns the places ahead of a request: all of them if it has none.
    fn ahead(&self, request: &AcquireRequest) -> &[Waiting] {
        // The places came after this request: while it waits, all of them are refused.
        if self.waiting.as_ref().is_some_and(|waiting| waiting.id == request.id) {
            return &[];
        }
        let own = self.places.iter().position(|place| place.id == request.id);
        &self.places[..own.unwrap_or(self.places.len())]
    }

    /// Returns the first place ahead of a request that cannot hold the lock together with it.
    fn first_before(&self, request: &AcquireRequest) -> Option<&Waiting> {
        self.ahead(request).iter().find(|place| place.mode != request.mode || !request.mode.may_be_joined())
    }

    /// Whether the holders, and the places ahead of a request, leave room for it.
    fn has_room(&self, request: &AcquireRequest, now: Instant) -> bool {
        let before = self.kept(now).count() + self.ahead(request).len();
        match request.mode {
            Mode::Shared => true,
            Mode::Permit { of } => before < usize::from(of.get()),
            Mode::Exclusive => before == 0,
        }
    }

    /// Gives a refused request its place in the queue, or keeps it longer.
    fn note_place(&mut self, request: &AcquireRequest, now: Instant) {
        if !(request.fair && request.waits) {
            return;
        }
        let place = Waiting::new(request, now);
        match self.places.iter_mut().find(|known| known.id == request.id) {
            Some(known) => *known = place,
            None => self.places.push(place),
        }
    }

    /// Returns the holders that ended without a release.
    fn crashed(&self, now: Instant) -> Option<Holder> {
        let crashed = self.records.iter().filter(|record| !record.released && !record.is_kept(now));
        Holder::of_several(crashed.map(|record| record.holder(now)).collect())
    }

    /// Adds the holder of a free lock.
    pub(super) fn grant(&mut self, record: Record, now: Instant) {
        self.records.retain(|known| known.is_kept(now));
        self.waiting.take_if(|waiting| waiting.id == record.id);
        self.places.retain(|place| place.id != record.id);
        self.broken.retain(|(id, _)| *id != record.id);
        self.records.push(record);
    }

    pub(super) fn renew(&mut self, lease: &Lease, now: Instant) -> Result<(), LossReason> {
        if let Some(record) = self.held_by(lease.id, now) {
            record.expires = now + lease.ttl;
            return Ok(());
        }
        if let Some(by) = self.broken_by(lease.id) {
            return Err(LossReason::BrokenBy(by.to_owned()));
        }
        if let Some(record) = self.records.iter().find(|record| record.id == lease.id) {
            return Err(if record.released { LossReason::RecordGone } else { LossReason::Expired });
        }
        let successor = self.holder(now).filter(|holder| !(lease.mode.may_be_joined() && holder.mode == lease.mode));
        Err(successor.map_or(LossReason::RecordGone, |holder| LossReason::TakenBy(Box::new(holder))))
    }

    /// Raises the token of a held lease. Returns `false` if the lease does not hold the lock.
    pub(super) fn advance(&mut self, lease: &Lease, token: FencingToken, now: Instant) -> bool {
        self.held_by(lease.id, now).map(|record| record.token = record.token.max(token)).is_some()
    }

    pub(super) fn release(&mut self, lease: &Lease, hold_for: Duration, now: Instant) -> Release {
        let places = self.places.len();
        self.places.retain(|place| place.id != lease.id);
        let waited = self.waiting.take_if(|waiting| waiting.id == lease.id).is_some() || self.places.len() < places;
        if self.broken_by(lease.id).is_some() {
            return Release::NotHeld(None);
        }
        // A retry: the release took effect and its reply was lost.
        if self.records.iter().any(|record| record.id == lease.id && record.released) {
            return Release::Released;
        }
        match self.held_by(lease.id, now).filter(|record| record.mode == lease.mode) {
            Some(record) => {
                record.released = true;
                record.expires = now + hold_for;
                Release::Released
            }
            None if waited => Release::NotHeld(None),
            None => Release::NotHeld(self.holder(now)),
        }
    }

    /// Breaks the lock of the one holder with this version, and returns its id.
    pub(super) fn break_one(&mut self, version: &str, by: &str, now: Instant) -> Option<LeaseId> {
        let seen = |record: &&mut Record| record.is_kept(now) && !record.released && record.id.to_string() == version;
        let record = self.records.iter_mut().find(seen)?;
        record.released = true;
        record.expires = now;
        let id = record.id;
        if self.broken.len() == REMEMBERED {
            self.broken.remove(0);
        }
        self.broken.push((id, by.to_owned()));
        Some(id)
    }
}
