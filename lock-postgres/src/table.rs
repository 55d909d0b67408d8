//! The operations on the table, each in one statement, and one more where the first found nothing.

use std::{collections::HashMap, sync::OnceLock, time::Duration};

use lock_core::{
    Error, FencingToken, Holder, LockName, LossReason,
    backend::{
        AcquireOutcome, AcquireRequest, Break, Grant, Lease, LeaseId, Listing, OddEntry, PastHolder, Release, Renewal,
    },
};
use tokio_postgres::{Row, types::Type};

use crate::{
    config::{PostgresConfig, Replicas},
    connection::{ConnectionSlot, Parameters},
    error::{not_synchronous, overtaken, released_before, unconfirmed, unreadable},
    joined::{owner_text, unknown_crash},
    listen::channel,
    row::{LockRow, fencing_token},
    sql::Statements,
    table_name::TableName,
};

/// The answer for each lease of a batch.
pub(crate) type Renewals = HashMap<LeaseId, Result<Renewal, Error>>;

/// The table of the locks.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) connection: ConnectionSlot,
    pub(crate) name: TableName,
    sql: OnceLock<Statements>,
    /// The table as the config names it, which is a part of the channels' names.
    pub(crate) quoted: String,
    pub(crate) config: PostgresConfig,
}

impl Table {
    pub(crate) fn new(connection: ConnectionSlot, config: &PostgresConfig) -> Self {
        let (name, quoted) = (TableName::new(config), config.quoted_table());
        Self { connection, name, sql: OnceLock::new(), quoted, config: config.clone() }
    }

    /// Returns the statements, which name the schema of the table.
    pub(crate) async fn sql(&self) -> Result<&Statements, Error> {
        let name = self.name.qualified(&self.connection).await?;
        Ok(self.sql.get_or_init(|| Statements::new(&self.config, name)))
    }

    /// Runs a statement that grants or renews. Such a statement must not count as done if a
    /// required standby may lack it.
    pub(crate) async fn write(&self, sql: &str, parameters: &Parameters<'_>) -> Result<Vec<Row>, Error> {
        let answer = self.connection.query(sql, parameters).await?;
        if answer.warned && self.config.replicas == Replicas::Sync {
            return Err(unconfirmed());
        }
        Ok(answer.rows)
    }

    pub(crate) async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        if request.mode.may_be_joined() {
            return self.join(request).await;
        }
        let name = request.name.as_str().as_bytes();
        let (id, ttl) = (request.id.to_string(), request.ttl.as_secs_f64());
        let owner = owner_text(request);
        let reserved = i64::from(request.reserved_tokens);
        let rows = self
            .write(
                &self.sql().await?.acquire,
                &[
                    (&name, Type::BYTEA),
                    (&id, Type::TEXT),
                    (&owner, Type::TEXT),
                    (&ttl, Type::FLOAT8),
                    (&request.data, Type::BYTEA),
                    (&reserved, Type::INT8),
                ],
            )
            .await?;
        let (mut granted, mut seen, mut is_ended) = (None, None, false);
        for row in &rows {
            self.require_synchronous(row)?;
            is_ended |= row.try_get::<_, bool>("is_ended").map_err(unreadable)?;
            if row.try_get("won").map_err(unreadable)? {
                granted = Some(row.try_get("token").map_err(unreadable)?);
            } else {
                seen = Some(row);
            }
        }
        let seen = seen.map(LockRow::read).transpose();
        let Some(token) = granted else { return self.refused(request, seen?, is_ended).await };
        let grant = Grant::default().with_token(fencing_token(token)?);
        let seen = match seen {
            Ok(seen) => seen,
            Err(error) => return Ok(AcquireOutcome::Granted(grant.with_crashed(unknown_crash(request, &error)))),
        };
        if seen.as_ref().is_some_and(|seen| seen.has_id(request.id)) {
            return Ok(AcquireOutcome::Granted(grant.with_already_ours(true)));
        }
        let grant = grant.with_previous_token(seen.as_ref().and_then(|seen| seen.token().ok()));
        Ok(AcquireOutcome::Granted(match seen {
            Some(seen) if seen.mode.may_be_joined() => grant.with_crashed(self.crashed_parts(request, seen.mode).await),
            seen => grant.with_crashed(seen.and_then(|seen| seen.crashed())),
        }))
    }

    /// Finds out who has the lock that was not granted, as `seen` shows it before the attempt.
    /// `is_ended` says that the id was released or broken before.
    async fn refused(
        &self,
        request: &AcquireRequest,
        seen: Option<LockRow>,
        is_ended: bool,
    ) -> Result<AcquireOutcome, Error> {
        let seen = match seen {
            Some(seen) if seen.is_held() && seen.mode.may_be_joined() => return self.refused_by_several(request).await,
            Some(seen) if seen.is_held() => seen,
            _ if is_ended => return Err(released_before()),
            // Another client won the race for a free lock. It may have released it since.
            _ => match self.glance(&request.name).await? {
                Some(row) if row.has_id(request.id) => return Err(overtaken()),
                Some(row) if row.is_held() && row.mode.may_be_joined() => {
                    return self.refused_by_several(request).await;
                }
                Some(row) => row,
                None => return Ok(AcquireOutcome::Contended(Holder::default())),
            },
        };
        Ok(AcquireOutcome::Contended(seen.holder()))
    }

    /// Reads a row without its parts, on a server that may grant locks.
    async fn glance(&self, name: &LockName) -> Result<Option<LockRow>, Error> {
        let rows =
            self.connection.query(&self.sql().await?.glance, &[(&name.as_str().as_bytes(), Type::BYTEA)]).await?.rows;
        let Some(row) = rows.first() else { return Ok(None) };
        self.require_synchronous(row)?;
        LockRow::read(row).map(Some)
    }

    /// Reads rows, on a server that may grant locks. A row that cannot be read hides no other.
    async fn look_many(&self, names: &[&LockName]) -> Result<HashMap<Vec<u8>, Result<LockRow, Error>>, Error> {
        let rows = self.rows_of(names).await?;
        rows.first().map_or(Ok(()), |row| self.require_synchronous(row))?;
        let mut found = HashMap::new();
        for rows in by_name(&rows) {
            let name = rows[0].try_get("name").map_err(unreadable)?;
            found.extend(LockRow::read_with_parts(rows).transpose().map(|row| (name, row)));
        }
        Ok(found)
    }

    async fn rows_of(&self, names: &[&LockName]) -> Result<Vec<Row>, Error> {
        let names: Vec<_> = names.iter().map(|name| name.as_str().as_bytes()).collect();
        Ok(self.connection.query(&self.sql().await?.look, &[(&names, Type::BYTEA_ARRAY)]).await?.rows)
    }

    /// Refuses an answer of a server without synchronous standbys, if they are required.
    pub(crate) fn require_synchronous(&self, row: &Row) -> Result<(), Error> {
        if self.config.replicas == Replicas::Sync && !row.try_get::<_, bool>("synchronous").map_err(unreadable)? {
            return Err(not_synchronous());
        }
        Ok(())
    }

    pub(crate) async fn renew_many(&self, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        let (parts, exclusive): (Vec<_>, Vec<_>) = leases.iter().partition(|lease| lease.mode.may_be_joined());
        // A failure of one statement is none of the other.
        let (parts, exclusive) = tokio::join!(self.renewals_of_parts(parts), self.renewals(exclusive));
        let answer = |lease: &Lease| {
            let answers = if lease.mode.may_be_joined() { &parts } else { &exclusive };
            match answers.as_ref().map(|answers| answers.get(&lease.id)) {
                Ok(answer) => answer.cloned().unwrap_or_else(|| Err(overtaken())),
                Err(error) => Err(error.clone()),
            }
        };
        leases.iter().map(answer).collect()
    }

    async fn renewals(&self, mut leases: Vec<&Lease>) -> Result<Renewals, Error> {
        if leases.is_empty() {
            return Ok(HashMap::new());
        }
        // In the order of the names, so that a batch and its own late copy cannot deadlock.
        leases.sort_by(|a, b| a.name.cmp(&b.name));
        let names: Vec<_> = leases.iter().map(|lease| lease.name.as_str().as_bytes()).collect();
        let ids: Vec<_> = leases.iter().map(|lease| lease.id.to_string()).collect();
        let ttls: Vec<_> = leases.iter().map(|lease| lease.ttl.as_secs_f64()).collect();
        let rows = self
            .write(
                &self.sql().await?.renew,
                &[(&names, Type::BYTEA_ARRAY), (&ids, Type::TEXT_ARRAY), (&ttls, Type::FLOAT8_ARRAY)],
            )
            .await?;
        let mut renewals = HashMap::new();
        for row in &rows {
            let number: i64 = row.try_get(0).map_err(unreadable)?;
            if let Some(lease) = usize::try_from(number - 1).ok().and_then(|at| leases.get(at)) {
                renewals.insert(lease.id, Ok(Renewal::Renewed));
            }
        }
        leases.retain(|lease| !renewals.contains_key(&lease.id));
        if leases.is_empty() {
            return Ok(renewals);
        }
        let names: Vec<_> = leases.iter().map(|lease| &lease.name).collect();
        let rows = self.look_many(&names).await;
        for lease in leases {
            let answer = match rows.as_ref().map(|rows| rows.get(lease.name.as_str().as_bytes())) {
                Ok(None) => Ok(Renewal::Lost(LossReason::RecordGone)),
                Ok(Some(Ok(row))) => row.loss_of(lease).map(Renewal::Lost).ok_or_else(overtaken),
                // The other renewals have taken effect.
                Ok(Some(Err(error))) | Err(error) => Err(error.clone()),
            };
            renewals.insert(lease.id, answer);
        }
        Ok(renewals)
    }

    pub(crate) async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        let (name, id) = (lease.name.as_str().as_bytes(), lease.id.to_string());
        let token = i64::try_from(token.get()).unwrap_or(i64::MAX);
        let parameters: &Parameters<'_> = &[(&name, Type::BYTEA), (&id, Type::TEXT), (&token, Type::INT8)];
        let sql = self.sql().await?;
        let advance = if lease.mode.may_be_joined() { &sql.parts.advance_token } else { &sql.advance_token };
        let is_held = !self.write(advance, parameters).await?.is_empty();
        if !is_held && self.config.replicas == Replicas::Sync {
            // A server without synchronous standbys changes nothing, also of a held lock.
            self.glance(&lease.name).await?;
        }
        Ok(is_held)
    }

    pub(crate) async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        if lease.mode.may_be_joined() {
            return self.release_part(lease, hold_for).await;
        }
        let (name, id) = (lease.name.as_str().as_bytes(), lease.id.to_string());
        let (hold_for, channel) = (hold_for.as_secs_f64(), channel(&self.quoted, &lease.name));
        let holding: &Parameters<'_> =
            &[(&name, Type::BYTEA), (&id, Type::TEXT), (&hold_for, Type::FLOAT8), (&channel, Type::TEXT)];
        let sql = self.sql().await?;
        if !self.connection.query(&sql.release, holding).await?.rows.is_empty() {
            return Ok(Release::Released);
        }
        let parameters: &Parameters<'_> = &[(&name, Type::BYTEA), (&id, Type::TEXT), (&channel, Type::TEXT)];
        let rows = self.connection.query(&sql.refuse_later, parameters).await?.rows;
        // A request of this id may have been granted between the two. From now on none is.
        if !self.connection.query(&sql.release, holding).await?.rows.is_empty() {
            return Ok(Release::Released);
        }
        let Some(row) = LockRow::read_with_parts(&rows)? else { return Ok(Release::NotHeld(None)) };
        if row.has_id(lease.id) {
            return Err(overtaken());
        }
        Ok(Release::NotHeld(row.is_another_holders().then(|| row.holder())))
    }

    pub(crate) async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        let row = LockRow::read_with_parts(&self.rows_of(&[name]).await?)?;
        Ok(row.filter(LockRow::is_held).map(|row| row.holder()))
    }

    pub(crate) async fn last_holder(&self, name: &LockName) -> Result<Option<PastHolder>, Error> {
        let row = LockRow::read_with_parts(&self.rows_of(&[name]).await?)?;
        // The row of a shared lock or of permits keeps no past holder.
        let row = row.filter(|row| !row.is_held() && !row.mode.may_be_joined());
        Ok(row.and_then(|row| row.past_holder()))
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let from = prefix.as_bytes();
        // Text has no byte 255, so the last byte can be raised.
        let to = from.split_last().map(|(last, rest)| [rest, &[last + 1]].concat());
        let rows =
            self.connection.query(&self.sql().await?.list, &[(&from, Type::BYTEA), (&to, Type::BYTEA)]).await?.rows;
        let mut listing = Listing::default();
        for rows in by_name(&rows) {
            let name: &[u8] = rows[0].try_get("name").map_err(unreadable)?;
            let shown = || String::from_utf8_lossy(name).chars().take(100).collect::<String>();
            match LockRow::read_with_parts(rows) {
                Ok(None) => {}
                Ok(Some(row)) => match row.name() {
                    Some(name) => listing.locks.push((name, row.holder())),
                    None => {
                        let reason = "its name is not one of a lock: 1 to 1024 bytes of UTF-8; another client wrote it";
                        listing.note_odd(OddEntry::new(shown(), reason));
                    }
                },
                Err(error) => listing.note_odd(OddEntry::new(shown(), error.to_string())),
            }
        }
        Ok(listing)
    }

    pub(crate) async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        let bytes = name.as_str().as_bytes();
        let (by, channel) = (by.replace('\0', "\u{fffd}"), channel(&self.quoted, name));
        // The version of a part is its id. Anything else that is no number is no version.
        if let Ok(id) = version.parse::<LeaseId>() {
            if self.break_part(bytes, id, &by, &channel).await? {
                return Ok(Break::Broken);
            }
            return Ok(Break::Changed(self.inspect(name).await?));
        }
        if let Ok(seq) = version.parse::<i64>() {
            let parameters: &Parameters<'_> =
                &[(&bytes, Type::BYTEA), (&seq, Type::INT8), (&by, Type::TEXT), (&channel, Type::TEXT)];
            if !self.connection.query(&self.sql().await?.break_lock, parameters).await?.rows.is_empty() {
                return Ok(Break::Broken);
            }
        }
        Ok(Break::Changed(self.inspect(name).await?))
    }

    pub(crate) async fn purge(&self, name: &LockName) -> Result<bool, Error> {
        let rows =
            self.connection.query(&self.sql().await?.purge, &[(&name.as_str().as_bytes(), Type::BYTEA)]).await?.rows;
        rows.first().map_or(Ok(false), |row| row.try_get(0)).map_err(unreadable)
    }

    /// Makes releases of `name` notify for a while.
    pub(crate) async fn announce_waiter(&self, name: &LockName) -> Result<(), Error> {
        let parameters: &Parameters<'_> = &[(&name.as_str().as_bytes(), Type::BYTEA)];
        self.connection.query(&self.sql().await?.announce_waiter, parameters).await.map(drop)
    }
}

/// Splits an answer into the rows of each lock, which follow each other.
fn by_name(rows: &[Row]) -> impl Iterator<Item = &[Row]> {
    let name = |row: &Row| row.try_get::<_, Vec<u8>>("name").ok();
    rows.chunk_by(move |a, b| name(a) == name(b))
}
