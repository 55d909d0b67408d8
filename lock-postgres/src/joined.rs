//! The operations on locks that may have several holders: shared locks and permits.

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use lock_core::{
    Error, Holder, LossReason, Mode,
    backend::{AcquireOutcome, AcquireRequest, Grant, Lease, LeaseId, Release, Renewal},
};
use tokio_postgres::{Row, types::Type};

use crate::{
    connection::Parameters,
    error::{overtaken, released_before, unreadable},
    listen::channel,
    part::{Part, mode_text, read_mode, several},
    row::{LockRow, fencing_token, span},
    table::{Renewals, Table},
};

/// What a row has of one id, and of the lock.
struct State {
    lock: Option<LockRow>,
    /// The id holds a part.
    is_ours: bool,
    /// The id has a part, which may have ended.
    is_listed: bool,
    /// The part of the id was released or broken.
    is_ended: bool,
    ended_by: Option<String>,
    /// The request that waits for holders of another mode.
    waiting: Option<Holder>,
}

impl State {
    /// Reads the answer of a statement that has at least one row.
    fn read(rows: &[Row]) -> Result<Self, Error> {
        let first = rows.first().ok_or_else(overtaken)?;
        let name: Option<Vec<u8>> = first.try_get("name").map_err(unreadable)?;
        let lock = if name.is_some() { LockRow::read_with_parts(rows)? } else { None };
        let waiting_mode: Option<&str> = first.try_get("waiting_mode").map_err(unreadable)?;
        let until: Option<f64> = first.try_get("waiting_until").map_err(unreadable)?;
        let left = until.zip(lock.as_ref()).map(|(until, lock)| until - lock.now);
        let waiting = match (waiting_mode, left.filter(|left| *left > 0.0)) {
            (Some(mode), Some(left)) => {
                let owner: Option<String> = first.try_get("waiting_owner").map_err(unreadable)?;
                Some(Holder::default().with_owner(owner).with_mode(read_mode(Some(mode))?).with_expires_in(span(left)))
            }
            _ => None,
        };
        let read = || {
            Ok(Self {
                lock,
                is_ours: first.try_get("is_ours")?,
                is_listed: first.try_get("is_listed")?,
                is_ended: first.try_get("is_ended")?,
                ended_by: first.try_get("ended_by")?,
                waiting,
            })
        };
        read().map_err(unreadable)
    }

    fn held(&self) -> Option<&LockRow> {
        self.lock.as_ref().filter(|lock| lock.is_held())
    }

    /// Who keeps `request` from the lock; `None` if it can be granted.
    fn refusal(&self, request: &AcquireRequest) -> Result<Option<Holder>, Error> {
        if self.is_ended {
            return Err(released_before());
        }
        if self.is_ours {
            return Ok(None);
        }
        let held = self.held();
        let waiting = self.waiting.as_ref().filter(|waiting| waiting.mode != request.mode);
        if let Some(waiting) = waiting.filter(|_| request.mode.may_be_joined()) {
            return Ok(Some(held.map_or_else(|| waiting.clone(), LockRow::holder)));
        }
        let Some(held) = held else { return Ok(None) };
        request.require_same_permits(held.mode)?;
        let can_join = match (held.mode, request.mode) {
            (Mode::Shared, Mode::Shared) => true,
            (Mode::Permit { of }, Mode::Permit { .. }) => held.count() < u64::from(of.get()),
            _ => false,
        };
        Ok((!can_join).then(|| held.holder()))
    }

    /// Why the part of `lease` was lost; `None` if it was not.
    fn loss_of(&self, lease: &Lease) -> Option<LossReason> {
        if self.is_ours {
            return None;
        }
        if self.is_ended {
            return Some(self.ended_by.clone().map_or(LossReason::RecordGone, LossReason::BrokenBy));
        }
        // Other holders of its own mode have taken nothing from it.
        if let Some(other) = self.held().filter(|lock| lock.mode != lease.mode && lock.is_another_holders()) {
            return Some(LossReason::TakenBy(Box::new(other.holder())));
        }
        // Others remove a part only after it has expired.
        Some(if self.is_listed || self.lock.is_some() { LossReason::Expired } else { LossReason::RecordGone })
    }
}

impl Table {
    /// Tries to acquire a part of a lock.
    pub(crate) async fn join(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        // Twice, because another client may have created the row meanwhile, or have left the lock.
        for _ in 0..2 {
            if let Some(grant) = self.joined(request).await? {
                return Ok(AcquireOutcome::Granted(grant));
            }
            if let Some(holder) = self.state_for(request).await?.refusal(request)? {
                return Ok(AcquireOutcome::Contended(holder));
            }
        }
        Ok(AcquireOutcome::Contended(Holder::default()))
    }

    async fn joined(&self, request: &AcquireRequest) -> Result<Option<Grant>, Error> {
        let (name, id, ttl) = (request.name.as_str().as_bytes(), request.id.to_string(), request.ttl.as_secs_f64());
        let (owner, mode) = (owner_text(request), mode_text(request.mode));
        let places = match request.mode {
            Mode::Permit { of } => Some(i32::from(of.get())),
            _ => None,
        };
        let parameters: &Parameters<'_> = &[
            (&name, Type::BYTEA),
            (&id, Type::TEXT),
            (&owner, Type::TEXT),
            (&ttl, Type::FLOAT8),
            (&request.data, Type::BYTEA),
            (&mode, Type::TEXT),
            (&places, Type::INT4),
        ];
        let rows = self.write(&self.sql().await?.parts.join, parameters).await?;
        let (mut grant, mut crashed) = (None, Vec::new());
        for row in rows {
            if row.try_get("is_grant").map_err(unreadable)? { grant = Some(row) } else { crashed.push(row) }
        }
        let Some(row) = grant else { return Ok(None) };
        let grant = Grant::default().with_token(fencing_token(row.try_get("part_token").map_err(unreadable)?)?);
        let is_ours: Option<bool> = row.try_get("own").map_err(unreadable)?;
        Ok(Some(match is_ours {
            Some(true) => grant.with_already_ours(true),
            _ => grant
                .with_crashed(crashed_holder(&crashed).unwrap_or_else(|error| Some(unknown_crash(request, &error)))),
        }))
    }

    /// Asks who refuses `request`, and notes it if it waits for holders of another mode.
    async fn state_for(&self, request: &AcquireRequest) -> Result<State, Error> {
        let (mode, owner, ttl) = (mode_text(request.mode), owner_text(request), request.ttl.as_secs_f64());
        let (name, id) = (request.name.as_str().as_bytes(), request.id.to_string());
        let parameters: &Parameters<'_> = &[
            (&name, Type::BYTEA),
            (&id, Type::TEXT),
            (&mode, Type::TEXT),
            (&owner, Type::TEXT),
            (&ttl, Type::FLOAT8),
            (&request.waits, Type::BOOL),
        ];
        let rows = self.connection.query(&self.sql().await?.parts.state, parameters).await?.rows;
        rows.first().map_or(Ok(()), |row| self.require_synchronous(row))?;
        State::read(&rows)
    }

    /// Answers an exclusive request that several holders refuse, and notes it if it waits.
    pub(crate) async fn refused_by_several(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        let holder = self.state_for(request).await?.refusal(request)?;
        // Without a holder, all of them have released the lock since. It was held when asked.
        Ok(AcquireOutcome::Contended(holder.unwrap_or_default()))
    }

    /// Returns the holders of parts that crashed before an exclusive lock was granted.
    pub(crate) async fn crashed_parts(&self, request: &AcquireRequest, mode: Mode) -> Option<Holder> {
        let name = request.name.as_str().as_bytes();
        let read = async {
            let answer = self.connection.query(&self.sql().await?.parts.crashed, &[(&name, Type::BYTEA)]).await?;
            read_parts(&answer.rows, mode)
        };
        read.await.unwrap_or_else(|error| Some(unknown_crash(request, &error).with_mode(mode)))
    }

    /// Renews parts, in one statement and one more for each part that was lost.
    pub(crate) async fn renewals_of_parts(&self, leases: Vec<&Lease>) -> Result<Renewals, Error> {
        if leases.is_empty() {
            return Ok(HashMap::new());
        }
        let names: Vec<_> = leases.iter().map(|lease| lease.name.as_str().as_bytes()).collect();
        let ids: Vec<_> = leases.iter().map(|lease| lease.id.to_string()).collect();
        let ttls: Vec<_> = leases.iter().map(|lease| lease.ttl.as_secs_f64()).collect();
        let parameters: &Parameters<'_> =
            &[(&names, Type::BYTEA_ARRAY), (&ids, Type::TEXT_ARRAY), (&ttls, Type::FLOAT8_ARRAY)];
        let rows = self.write(&self.sql().await?.parts.renew, parameters).await?;
        let mut renewals = HashMap::new();
        for row in &rows {
            let ids: Vec<&str> = row.try_get("ids").map_err(unreadable)?;
            let ids = ids.into_iter().filter_map(|id| id.parse::<LeaseId>().ok());
            renewals.extend(ids.map(|id| (id, Ok(Renewal::Renewed))));
        }
        let lost = leases.iter().filter(|lease| !renewals.contains_key(&lease.id));
        let losses = join_all(lost.map(async |lease| (lease.id, self.loss_of_part(lease).await))).await;
        renewals.extend(losses);
        Ok(renewals)
    }

    /// Says why the part of `lease` was not renewed.
    async fn loss_of_part(&self, lease: &Lease) -> Result<Renewal, Error> {
        let request = AcquireRequest::new(lease.name.clone(), lease.id, "").with_mode(lease.mode);
        self.state_for(&request).await?.loss_of(lease).map(Renewal::Lost).ok_or_else(overtaken)
    }

    /// Releases the part of one of several holders.
    pub(crate) async fn release_part(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        let (name, id) = (lease.name.as_str().as_bytes(), lease.id.to_string());
        let (hold_for, channel) = (hold_for.as_secs_f64(), channel(&self.quoted, &lease.name));
        let holding: &Parameters<'_> =
            &[(&name, Type::BYTEA), (&id, Type::TEXT), (&hold_for, Type::FLOAT8), (&channel, Type::TEXT)];
        let sql = &self.sql().await?.parts;
        if !self.connection.query(&sql.release, holding).await?.rows.is_empty() {
            return Ok(Release::Released);
        }
        let parameters: &Parameters<'_> = &[(&name, Type::BYTEA), (&id, Type::TEXT), (&channel, Type::TEXT)];
        let state = State::read(&self.connection.query(&sql.refuse_later, parameters).await?.rows)?;
        // A request of this id may have been granted between the two. From now on none is.
        if !self.connection.query(&sql.release, holding).await?.rows.is_empty() {
            return Ok(Release::Released);
        }
        let other = state.held().filter(|lock| !state.is_ended && lock.is_another_holders());
        Ok(Release::NotHeld(other.map(LockRow::holder)))
    }

    pub(crate) async fn break_part(&self, name: &[u8], id: LeaseId, by: &str, channel: &str) -> Result<bool, Error> {
        let id = id.to_string();
        let parameters: &Parameters<'_> =
            &[(&name, Type::BYTEA), (&id, Type::TEXT), (&by, Type::TEXT), (&channel, Type::TEXT)];
        Ok(!self.connection.query(&self.sql().await?.parts.break_part, parameters).await?.rows.is_empty())
    }
}

/// The owner as PostgreSQL can keep it: it has no text with NUL.
pub(crate) fn owner_text(request: &AcquireRequest) -> String {
    request.owner.replace('\0', "\u{fffd}")
}

/// Stands for holders that may have crashed, and that `error` keeps from being read. The lock is
/// granted, so the request must not fail.
pub(crate) fn unknown_crash(request: &AcquireRequest, error: &Error) -> Holder {
    tracing::debug!(name = %request.name, %error, "the crashed holders are unknown");
    Holder::default()
}

/// Reads the rows of holders that crashed, all in one mode.
fn crashed_holder(rows: &[Row]) -> Result<Option<Holder>, Error> {
    let Some(first) = rows.first() else { return Ok(None) };
    let mode = read_mode(first.try_get("mode").map_err(unreadable)?)?;
    read_parts(rows, mode)
}

fn read_parts(rows: &[Row], mode: Mode) -> Result<Option<Holder>, Error> {
    let Some(first) = rows.first() else { return Ok(None) };
    let mut parts = Vec::new();
    for row in rows {
        parts.extend(Part::read(row)?);
    }
    Ok(several(&parts, Part::count(first)?, mode, first.try_get("now").map_err(unreadable)?))
}
