//! Reads rows of the table.

use std::time::{Duration, SystemTime};

use lock_core::{
    Error, ErrorKind, FencingToken, Holder, LockName, LossReason, Mode,
    backend::{End, Lease, LeaseId, PastHolder},
};
use tokio_postgres::Row;

use crate::{
    error::unreadable,
    part::{Part, read_mode, several},
};

/// A row of the table, as it was at one moment.
#[derive(Debug, Clone)]
pub(crate) struct LockRow {
    name: Vec<u8>,
    id: Option<String>,
    owner: Option<String>,
    token: i64,
    pub(crate) seq: i64,
    since: Option<f64>,
    expires: f64,
    data: Option<Vec<u8>>,
    broken_by: Option<String>,
    last_id: Option<String>,
    pub(crate) mode: Mode,
    /// Some of the parts of the holders, if there are several.
    parts: Vec<Part>,
    /// How many parts there are.
    count: u64,
    /// The server's time of the answer.
    pub(crate) now: f64,
}

impl LockRow {
    pub(crate) fn read(row: &Row) -> Result<Self, Error> {
        let id: Option<String> = row.try_get("id").map_err(unreadable)?;
        let since: Option<f64> = row.try_get("since").map_err(unreadable)?;
        // Beside a single holder or its minimum hold, the mode was left by holders before it.
        let is_joined = id.is_none() && since.is_none();
        let mode = row.try_get::<_, Option<&str>>("mode").map_err(unreadable)?.filter(|_| is_joined);
        let mode = read_mode(mode)?;
        let read = || {
            Ok(Self {
                name: row.try_get("name")?,
                id,
                owner: row.try_get("owner")?,
                token: row.try_get("token")?,
                seq: row.try_get("seq")?,
                since,
                expires: row.try_get("expires")?,
                data: row.try_get("data")?,
                broken_by: row.try_get("broken_by")?,
                last_id: row.try_get("last_id")?,
                mode,
                parts: Vec::new(),
                count: 0,
                now: row.try_get("now")?,
            })
        };
        read().map_err(unreadable)
    }

    /// Reads an answer with one row for each part.
    pub(crate) fn read_with_parts(rows: &[Row]) -> Result<Option<Self>, Error> {
        let Some(first) = rows.first() else { return Ok(None) };
        let mut lock = Self::read(first)?;
        for row in rows {
            if let Some(part) = Part::read(row)? {
                lock.parts.push(part);
                lock.count = Part::count(row)?;
            }
        }
        Ok(Some(lock))
    }

    /// The name, if it is one of a lock.
    pub(crate) fn name(&self) -> Option<LockName> {
        LockName::new(std::str::from_utf8(&self.name).ok()?).ok()
    }

    /// Whether the lock cannot be acquired by others, because of a holder or of its minimum hold.
    pub(crate) fn is_held(&self) -> bool {
        self.expires > self.now
    }

    /// Whether an acquisition that has not been released keeps the lock from others.
    pub(crate) fn is_another_holders(&self) -> bool {
        self.is_held() && (self.id.is_some() || self.parts.iter().any(Part::is_unreleased))
    }

    /// How many hold a part of the lock, or keep one for a minimum hold.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn has_id(&self, id: LeaseId) -> bool {
        self.id.as_deref() == Some(&*id.to_string())
    }

    /// Whether `id` released, or was released from, this lock last.
    pub(crate) fn was_released_by(&self, id: LeaseId) -> bool {
        self.last_id.as_deref() == Some(&*id.to_string())
    }

    /// The holder that expired without a release.
    pub(crate) fn crashed(&self) -> Option<Holder> {
        (self.id.is_some() && !self.is_held()).then(|| self.holder())
    }

    /// The fencing token.
    pub(crate) fn token(&self) -> Result<FencingToken, Error> {
        fencing_token(self.token)
    }

    /// Describes who keeps the lock from others.
    pub(crate) fn holder(&self) -> Holder {
        if self.mode.may_be_joined() {
            let holder = several(&self.parts, self.count, self.mode, self.now);
            return holder.unwrap_or_else(|| Holder::default().with_mode(self.mode));
        }
        let holder = Holder::default()
            .with_owner(self.owner.clone())
            .with_token(self.token().ok())
            .with_since(self.since.and_then(time))
            .with_expires_in(span(self.expires - self.now))
            .with_data(self.data.clone())
            .with_store_time(time(self.now));
        match self.id {
            Some(_) => holder.with_version(self.seq.to_string()),
            // A released lock in its minimum hold cannot be broken.
            None => holder,
        }
    }

    /// Describes the last holder of a free lock. A release and a break set the expiry to their
    /// time.
    pub(crate) fn past_holder(&self) -> Option<PastHolder> {
        let end = match (&self.id, &self.last_id, &self.broken_by) {
            (Some(_), ..) => End::Crashed,
            (None, Some(_), Some(by)) => End::BrokenBy(by.clone()),
            (None, Some(_), None) => End::Released,
            (None, None, _) => return None,
        };
        // Otherwise the row notes only that a request was rolled back.
        self.owner.as_ref()?;
        let holder = self.holder().with_expires_in(None).with_version(None).with_held_for(None);
        Some(PastHolder::new(holder, end).with_ended_at(time(self.expires)))
    }

    /// Why `lease` does not hold the lock; `None` if it does.
    pub(crate) fn loss_of(&self, lease: &Lease) -> Option<LossReason> {
        if self.has_id(lease.id) {
            return (!self.is_held()).then_some(LossReason::Expired);
        }
        if let (true, Some(by)) = (self.was_released_by(lease.id), &self.broken_by) {
            return Some(LossReason::BrokenBy(by.clone()));
        }
        Some(match self.id {
            None if !self.is_another_holders() => LossReason::RecordGone,
            _ => LossReason::TakenBy(Box::new(self.holder())),
        })
    }
}

pub(crate) fn fencing_token(token: i64) -> Result<FencingToken, Error> {
    u64::try_from(token).ok().and_then(FencingToken::new).ok_or_else(|| {
        let message = "this lock has no fencing tokens left, because the token in its row was modified; delete the row";
        // The lock was granted anyway.
        Error::new(ErrorKind::Corrupt, message).with_ambiguous(true)
    })
}

pub(crate) fn time(seconds: f64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

/// The duration, or none for an infinite one.
pub(crate) fn span(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds.max(0.0)).ok()
}
