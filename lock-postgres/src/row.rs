//! Reads rows of the table.

use std::time::{Duration, SystemTime};

use lock_core::{
    Error, ErrorKind, FencingToken, Holder, LockName, LossReason,
    backend::{Lease, LeaseId},
};
use tokio_postgres::Row;

use crate::error::unreadable;

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
    /// The server's time of the answer.
    now: f64,
}

impl LockRow {
    pub(crate) fn read(row: &Row) -> Result<Self, Error> {
        let read = || {
            Ok(Self {
                name: row.try_get("name")?,
                id: row.try_get("id")?,
                owner: row.try_get("owner")?,
                token: row.try_get("token")?,
                seq: row.try_get("seq")?,
                since: row.try_get("since")?,
                expires: row.try_get("expires")?,
                data: row.try_get("data")?,
                broken_by: row.try_get("broken_by")?,
                last_id: row.try_get("last_id")?,
                now: row.try_get("now")?,
            })
        };
        read().map_err(unreadable)
    }

    /// The name, if it is one of a lock.
    pub(crate) fn name(&self) -> Option<LockName> {
        LockName::new(std::str::from_utf8(&self.name).ok()?).ok()
    }

    /// The name for messages.
    pub(crate) fn shown_name(&self) -> String {
        String::from_utf8_lossy(&self.name).chars().take(100).collect()
    }

    /// Whether the lock cannot be acquired by others, because of a holder or of its minimum hold.
    pub(crate) fn is_held(&self) -> bool {
        self.expires > self.now
    }

    /// Whether an acquisition that has not been released keeps the lock from others.
    pub(crate) fn is_another_holders(&self) -> bool {
        self.id.is_some() && self.is_held()
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
        let token = u64::try_from(self.token).ok().and_then(FencingToken::new);
        token.ok_or_else(|| {
            let message = "this lock has no fencing tokens left, because the token in its row was modified; delete the \
                           row";
            // The lock was granted anyway.
            Error::new(ErrorKind::Corrupt, message).with_ambiguous(true)
        })
    }

    /// Describes who keeps the lock from others.
    pub(crate) fn holder(&self) -> Holder {
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

    /// Why `lease` does not hold the lock; `None` if it does.
    pub(crate) fn loss_of(&self, lease: &Lease) -> Option<LossReason> {
        if self.has_id(lease.id) {
            return (!self.is_held()).then_some(LossReason::Expired);
        }
        if let (true, Some(by)) = (self.was_released_by(lease.id), &self.broken_by) {
            return Some(LossReason::BrokenBy(by.clone()));
        }
        Some(match self.id {
            Some(_) => LossReason::TakenBy(Box::new(self.holder())),
            None => LossReason::RecordGone,
        })
    }
}

pub(crate) fn time(seconds: f64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

/// The duration, or none for an infinite one.
pub(crate) fn span(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds.max(0.0)).ok()
}
