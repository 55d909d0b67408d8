//! The queue of fair requests, a list in the item of the lock.
//!
//! A refusal returns the item, so a waiter learns its place from each attempt. It writes only to
//! take the place, to keep it, and to leave it.

use lock_core::{
    Error, ErrorKind, Holder, Mode,
    backend::{AcquireOutcome, AcquireRequest, Lease, LeaseId},
};

use crate::{
    backend::DynamoBackend,
    record::{Place, Record},
    send::WriteOutcome,
    write::ConditionalWrite,
};

/// How often a write is repeated because other places have ended, which moves this one.
const ROUNDS: usize = 32;

/// The queue, as seen by a request whose turn has come.
#[derive(Debug, Default)]
pub(crate) struct Turn<'s> {
    /// The places that end with the grant because they are dead, by their indexes.
    pub(crate) over: Vec<(usize, &'s Place)>,
    /// The place of the request, which ends with the grant.
    pub(crate) own: Option<(usize, LeaseId)>,
    /// The number of places, if the request has none and must see all of them.
    pub(crate) end: Option<usize>,
    /// The last place, if the request has none, and the last one does not end.
    pub(crate) last: Option<(usize, LeaseId)>,
    /// The places ahead that can hold the lock together with the request.
    ahead: Vec<Holder>,
}

impl Turn<'_> {
    /// Checks that the lock has room for `mode`, after `held` holders and the places ahead.
    ///
    /// # Errors
    /// The first place ahead, if there is no room.
    pub(crate) fn with_room(mut self, mode: Mode, held: usize) -> Result<Self, Box<Holder>> {
        match mode {
            Mode::Permit { of } if held + self.ahead.len() >= usize::from(of.get()) && !self.ahead.is_empty() => {
                Err(Box::new(self.ahead.swap_remove(0)))
            }
            _ => Ok(self),
        }
    }
}

impl DynamoBackend {
    /// Returns what the grant of `request` changes in the queue of `seen`.
    ///
    /// # Errors
    /// The first place ahead that the request has to wait for.
    pub(crate) fn turn<'s>(&self, request: &AcquireRequest, seen: &'s Record) -> Result<Turn<'s>, Box<Holder>> {
        let mut turn = Turn::default();
        // The places came after a request with a mark: while it waits, all of them are refused.
        let came_before = seen.waiting.as_ref().is_some_and(|waiting| waiting.id == request.id);
        if came_before || !self.config.layout.has_queue() {
            return Ok(turn);
        }
        let now = self.clock.now_at_least();
        for (index, place) in seen.places.iter().enumerate() {
            if place.is_of(request.id) && turn.own.is_none() {
                turn.own = Some((index, request.id));
                continue;
            }
            if turn.own.is_some() {
                // A request that was delivered twice has made a second place.
                turn.over.extend(place.is_of(request.id).then_some((index, place)));
                continue;
            }
            let left = |until| Some(Record::until(now, until)).filter(|left| !left.is_zero());
            match place.waiting.as_ref().and_then(|waiting| Some((waiting, left(waiting.until)?))) {
                None => turn.over.push((index, place)),
                Some((waiting, left)) => {
                    let holder = waiting.holder(left);
                    if !request.mode.may_be_joined() || waiting.mode != Some(request.mode) {
                        return Err(Box::new(holder));
                    }
                    turn.ahead.push(holder);
                }
            }
        }
        if turn.own.is_none() {
            turn.end = Some(seen.places.len());
            let ends = |index| turn.over.iter().any(|(over, _)| *over == index);
            let last = seen.places.iter().enumerate().next_back().filter(|(index, _)| !ends(*index));
            turn.last = last.and_then(|(index, place)| Some((index, place.waiting.as_ref()?.id)));
        }
        Ok(turn)
    }

    /// Whether a request in the queue of `seen` may still wait.
    pub(crate) fn has_waiters(&self, seen: &Record) -> bool {
        let now = self.clock.now_at_least();
        seen.places
            .iter()
            .filter_map(|place| place.waiting.as_ref())
            .any(|waiting| !Record::until(now, waiting.until).is_zero())
    }

    /// Refuses `request` by `seen`, in which it gets or keeps its place.
    ///
    /// # Errors
    /// If the place is not confirmed, because a refusal says that there is one.
    pub(crate) async fn refuse(
        &self,
        request: &AcquireRequest,
        seen: &Record,
        holder: Holder,
    ) -> Result<AcquireOutcome, Error> {
        self.queue(request, seen).await?;
        Ok(AcquireOutcome::Contended(holder))
    }

    /// Takes a place for `request`, if it is fair and waits, or keeps the place that `seen` shows.
    pub(crate) async fn queue(&self, request: &AcquireRequest, seen: &Record) -> Result<(), Error> {
        let layout = &self.config.layout;
        if !(request.fair && request.waits && layout.has_queue()) {
            return Ok(());
        }
        let mut own = own_place(seen, request.id);
        for _ in 0..ROUNDS {
            let now = self.clock.now();
            let write = match own {
                Some((_, until)) if Record::until(now, until) > request.ttl / 3 * 2 => return Ok(()),
                Some((index, _)) => ConditionalWrite::keep_place(layout, request, index, now),
                None => ConditionalWrite::take_place(layout, request, now),
            };
            self.queued.note(request.id, request.ttl);
            let item = match self.update(&request.name, write).await? {
                WriteOutcome::Done => return Ok(()),
                WriteOutcome::Refused(item) => item,
            };
            let had_place = own.is_some();
            own = item.and_then(|item| own_place(&self.read(&item), request.id));
            if own.is_none() && !had_place {
                // The queue is full, or the item was deleted. An earlier request for a place may
                // still arrive, so the release looks for it.
                return Ok(());
            }
        }
        Err(unsettled())
    }

    /// Ends the place of `lease`, whose request waits no longer.
    pub(crate) async fn leave(&self, lease: &Lease) -> Result<(), Error> {
        let mut index = 0;
        for _ in 0..ROUNDS {
            let write = ConditionalWrite::leave_place(&self.config.layout, lease.id, index);
            let left = match self.update(&lease.name, write).await? {
                WriteOutcome::Done => None,
                WriteOutcome::Refused(item) => item.and_then(|item| own_place(&self.read(&item), lease.id)),
            };
            let Some((place, _)) = left else {
                self.queued.remove(lease.id);
                return Ok(());
            };
            index = place;
        }
        Err(unsettled())
    }
}

/// The index of the place of `id`, and its end.
fn own_place(seen: &Record, id: LeaseId) -> Option<(usize, i64)> {
    let mut places = seen.places.iter().enumerate();
    places.find(|(_, place)| place.is_of(id)).and_then(|(index, place)| Some((index, place.waiting.as_ref()?.until)))
}

fn unsettled() -> Error {
    let message = "other clients change the queue of this lock faster than a request can follow; try again";
    Error::new(ErrorKind::Unavailable, message)
}
