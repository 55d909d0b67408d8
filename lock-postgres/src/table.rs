//! The operations on the table, each in one statement, and one more where the first found nothing.

use std::{collections::HashMap, time::Duration};

use lock_core::{
    Error, ErrorKind, FencingToken, Holder, LockName, LossReason,
    backend::{AcquireOutcome, AcquireRequest, Break, Grant, Lease, Listing, OddEntry, Release, Renewal},
};
use tokio_postgres::types::Type;

use crate::{
    config::{PostgresConfig, Replicas, Schema},
    connection::{ConnectionSlot, Parameters},
    error::{not_synchronous, overtaken, unconfirmed, unreadable},
    listen::channel,
    row::LockRow,
    sql::Statements,
};

/// The table of the locks.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) connection: ConnectionSlot,
    sql: Statements,
    /// The table as SQL, which is also a part of the channels' names.
    pub(crate) quoted: String,
    replicas: Replicas,
    pub(crate) schema: Schema,
}

impl Table {
    pub(crate) fn new(connection: ConnectionSlot, config: &PostgresConfig) -> Self {
        let (quoted, replicas, schema) = (config.quoted_table(), config.replicas, config.schema);
        Self { connection, sql: Statements::new(config), quoted, replicas, schema }
    }

    /// Runs a statement that grants or renews. Such a statement must not count as done if a
    /// required standby may lack it.
    async fn write(&self, sql: &str, parameters: &Parameters<'_>) -> Result<Vec<tokio_postgres::Row>, Error> {
        let answer = self.connection.query(sql, parameters).await?;
        if answer.warned && self.replicas == Replicas::Sync {
            return Err(unconfirmed());
        }
        Ok(answer.rows)
    }

    pub(crate) async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        let name = request.name.as_str().as_bytes();
        let (id, ttl) = (request.id.to_string(), request.ttl.as_secs_f64());
        // PostgreSQL has no text with NUL.
        let owner = request.owner.replace('\0', "\u{fffd}");
        let rows = self
            .write(
                &self.sql.acquire,
                &[
                    (&name, Type::BYTEA),
                    (&id, Type::TEXT),
                    (&owner, Type::TEXT),
                    (&ttl, Type::FLOAT8),
                    (&request.data, Type::BYTEA),
                ],
            )
            .await?;
        let (mut won, mut seen) = (None, None);
        for row in &rows {
            self.require_synchronous(row)?;
            let is_won: bool = row.try_get("won").map_err(unreadable)?;
            *if is_won { &mut won } else { &mut seen } = Some(LockRow::read(row)?);
        }
        let Some(won) = won else { return self.refused(request, seen).await };
        let grant = Grant::default().with_token(won.token()?);
        Ok(AcquireOutcome::Granted(match seen {
            Some(seen) if seen.has_id(request.id) => grant.with_already_ours(true),
            seen => grant.with_crashed(seen.and_then(|seen| seen.crashed())),
        }))
    }

    /// Finds out who has the lock that was not granted, as `seen` shows it before the attempt.
    async fn refused(&self, request: &AcquireRequest, seen: Option<LockRow>) -> Result<AcquireOutcome, Error> {
        let seen = match seen {
            Some(seen) if seen.is_held() => seen,
            Some(seen) if seen.was_released_by(request.id) => {
                let message = "this acquire reached PostgreSQL after its lease id had been released";
                return Err(Error::new(ErrorKind::Other, message));
            }
            // Another client won the race for a free lock. It may have released it since.
            _ => match self.look(&request.name).await? {
                Some(row) if row.has_id(request.id) => return Err(overtaken()),
                Some(row) => row,
                None => return Ok(AcquireOutcome::Contended(Holder::default())),
            },
        };
        Ok(AcquireOutcome::Contended(seen.holder()))
    }

    async fn look(&self, name: &LockName) -> Result<Option<LockRow>, Error> {
        let rows = self.connection.query(&self.sql.look, &[(&name.as_str().as_bytes(), Type::BYTEA)]).await?.rows;
        let Some(row) = rows.first() else { return Ok(None) };
        self.require_synchronous(row)?;
        LockRow::read(row).map(Some)
    }

    /// Refuses an answer of a server without synchronous standbys, if they are required.
    fn require_synchronous(&self, row: &tokio_postgres::Row) -> Result<(), Error> {
        if self.replicas == Replicas::Sync && !row.try_get::<_, bool>("synchronous").map_err(unreadable)? {
            return Err(not_synchronous());
        }
        Ok(())
    }

    pub(crate) async fn renew_many(&self, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        match self.renewals(leases).await {
            Ok(renewals) => renewals,
            Err(error) => leases.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn renewals(&self, leases: &[Lease]) -> Result<Vec<Result<Renewal, Error>>, Error> {
        // In the order of the names, so that a batch and its own late copy cannot deadlock.
        let mut order: Vec<_> = leases.iter().collect();
        order.sort_by(|a, b| a.name.cmp(&b.name));
        let names: Vec<_> = order.iter().map(|lease| lease.name.as_str().as_bytes()).collect();
        let ids: Vec<_> = order.iter().map(|lease| lease.id.to_string()).collect();
        let ttls: Vec<_> = order.iter().map(|lease| lease.ttl.as_secs_f64()).collect();
        let rows = self
            .write(
                &self.sql.renew,
                &[(&names, Type::BYTEA_ARRAY), (&ids, Type::TEXT_ARRAY), (&ttls, Type::FLOAT8_ARRAY)],
            )
            .await?;
        let mut renewed = HashMap::new();
        for row in &rows {
            let number: i64 = row.try_get(0).map_err(unreadable)?;
            if let Some(lease) = usize::try_from(number - 1).ok().and_then(|at| order.get(at)) {
                renewed.insert(lease.id, Renewal::Renewed);
            }
        }
        let lost: Vec<_> = leases.iter().filter(|lease| !renewed.contains_key(&lease.id)).collect();
        let reasons = if lost.is_empty() { HashMap::new() } else { self.losses(&lost).await? };
        let answer = |lease: &Lease| match renewed.get(&lease.id) {
            Some(renewal) => Ok(renewal.clone()),
            None => match reasons.get(&lease.name) {
                None => Ok(Renewal::Lost(LossReason::RecordGone)),
                Some(row) => row.loss_of(lease).map(Renewal::Lost).ok_or_else(overtaken),
            },
        };
        Ok(leases.iter().map(answer).collect())
    }

    /// Reads the rows of leases that were not renewed.
    async fn losses(&self, lost: &[&Lease]) -> Result<HashMap<LockName, LockRow>, Error> {
        let names: Vec<_> = lost.iter().map(|lease| lease.name.as_str().as_bytes()).collect();
        let rows = self.connection.query(&self.sql.look_many, &[(&names, Type::BYTEA_ARRAY)]).await?.rows;
        let mut found = HashMap::new();
        for row in &rows {
            self.require_synchronous(row)?;
            let row = LockRow::read(row)?;
            found.extend(row.name().map(|name| (name, row)));
        }
        Ok(found)
    }

    pub(crate) async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        let (name, id) = (lease.name.as_str().as_bytes(), lease.id.to_string());
        let token = i64::try_from(token.get()).unwrap_or(i64::MAX);
        let parameters: &Parameters<'_> = &[(&name, Type::BYTEA), (&id, Type::TEXT), (&token, Type::INT8)];
        let is_held = !self.write(&self.sql.advance_token, parameters).await?.is_empty();
        if !is_held && self.replicas == Replicas::Sync {
            // A server without synchronous standbys changes nothing, also of a held lock.
            self.look(&lease.name).await?;
        }
        Ok(is_held)
    }

    pub(crate) async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        let (name, id) = (lease.name.as_str().as_bytes(), lease.id.to_string());
        let (hold_for, channel) = (hold_for.as_secs_f64(), channel(&self.quoted, &lease.name));
        let released = self
            .connection
            .query(
                &self.sql.release,
                &[(&name, Type::BYTEA), (&id, Type::TEXT), (&hold_for, Type::FLOAT8), (&channel, Type::TEXT)],
            )
            .await?;
        if !released.rows.is_empty() {
            return Ok(Release::Released);
        }
        let rows =
            self.connection.query(&self.sql.refuse_later, &[(&name, Type::BYTEA), (&id, Type::TEXT)]).await?.rows;
        let Some(row) = rows.first().map(LockRow::read).transpose()? else { return Ok(Release::NotHeld(None)) };
        if row.has_id(lease.id) {
            return Err(overtaken());
        }
        Ok(Release::NotHeld(row.is_another_holders().then(|| row.holder())))
    }

    pub(crate) async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        let rows = self.connection.query(&self.sql.look, &[(&name.as_str().as_bytes(), Type::BYTEA)]).await?.rows;
        let row = rows.first().map(LockRow::read).transpose()?;
        Ok(row.filter(LockRow::is_held).map(|row| row.holder()))
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let from = prefix.as_bytes();
        // Text has no byte 255, so the last byte can be raised.
        let to = from.split_last().map(|(last, rest)| [rest, &[last + 1]].concat());
        let rows = self.connection.query(&self.sql.list, &[(&from, Type::BYTEA), (&to, Type::BYTEA)]).await?.rows;
        let mut listing = Listing::default();
        for row in &rows {
            let row = LockRow::read(row)?;
            match row.name() {
                Some(name) => listing.locks.push((name, row.holder())),
                None => {
                    let reason = "its name is not one of a lock: 1 to 1024 bytes of UTF-8; another client wrote it";
                    listing.note_odd(OddEntry::new(row.shown_name(), reason));
                }
            }
        }
        Ok(listing)
    }

    pub(crate) async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        let bytes = name.as_str().as_bytes();
        let (by, channel) = (by.replace('\0', "\u{fffd}"), channel(&self.quoted, name));
        // What is no number is no version of a row.
        if let Ok(seq) = version.parse::<i64>() {
            let parameters: &Parameters<'_> =
                &[(&bytes, Type::BYTEA), (&seq, Type::INT8), (&by, Type::TEXT), (&channel, Type::TEXT)];
            if !self.connection.query(&self.sql.break_lock, parameters).await?.rows.is_empty() {
                return Ok(Break::Broken);
            }
        }
        Ok(Break::Changed(self.inspect(name).await?))
    }

    pub(crate) async fn purge(&self, name: &LockName) -> Result<bool, Error> {
        let rows = self.connection.query(&self.sql.purge, &[(&name.as_str().as_bytes(), Type::BYTEA)]).await?.rows;
        rows.first().map_or(Ok(false), |row| row.try_get(0)).map_err(unreadable)
    }

    /// Makes releases of `name` notify for a while.
    pub(crate) async fn announce_waiter(&self, name: &LockName) -> Result<(), Error> {
        let parameters: &Parameters<'_> = &[(&name.as_str().as_bytes(), Type::BYTEA)];
        self.connection.query(&self.sql.announce_waiter, parameters).await.map(drop)
    }
}
