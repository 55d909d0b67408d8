//! The rows of ShedLock, a library for Java, so that its locks and onelock's exclude each other.
//!
//! ShedLock's `JdbcTemplateLockProvider` acquires by an insert, or by an update where
//! `lock_until <= now`. It releases by setting `lock_until` where name and `locked_by` match. A
//! process of it never inserts a name twice, so no row may be deleted.

use std::{
    collections::HashMap,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lock_core::{
    Error, ErrorKind, Holder, LockName, LossReason,
    backend::{AcquireOutcome, AcquireRequest, Grant, Lease, LeaseId, Listing, OddEntry, Release, Renewal},
};
use tokio_postgres::{Row, types::Type};

use crate::{
    config::PostgresConfig,
    error::{overtaken, released_before, unreadable},
    init::unsuitable,
    row::{span, time},
    sql::settings,
    table::Table,
};

/// ShedLock has a time without a zone, which is UTC.
const NOW: &str = "timezone('utc', clock_timestamp())";

/// A time in whole milliseconds, and not too early.
fn after(seconds: &str) -> String {
    format!("date_trunc('milliseconds', {NOW} + make_interval(secs => {seconds}) + interval '0.999 ms')")
}

const COLUMNS: &str = "l.name::text as name, left(l.locked_by, 255) as locked_by, \
    extract(epoch from l.locked_at)::float8 as since, extract(epoch from l.lock_until)::float8 as expires, \
    extract(epoch from timezone('utc', clock_timestamp()))::float8 as now";

/// The longest name that fits into the column of ShedLock, in bytes.
const LONGEST_NAME: usize = 64;
/// The characters of a lease id in `locked_by`, which a space and the owner follow.
const ID: usize = 32;
/// Precedes `locked_by` after a release, so that the row keeps the id without being held by it.
const RELEASED: &str = "released ";
const LONGEST_OWNER: usize = 200;

/// The operations on ShedLock's table.
#[derive(Debug, Default)]
pub(crate) struct ShedLock {
    sql: OnceLock<ShedStatements>,
    /// Whether the table was found to be fit.
    is_checked: AtomicBool,
}

/// The statements for one table.
#[derive(Debug)]
struct ShedStatements {
    acquire: String,
    look: String,
    renew: String,
    release: String,
    list: String,
}

/// A row of ShedLock's table, as it was at one moment.
pub(crate) struct ShedRow {
    name: String,
    locked_by: String,
    since: f64,
    expires: f64,
    now: f64,
}

impl ShedStatements {
    fn new(config: &PostgresConfig, table: &str) -> Self {
        let settings = settings(config);
        Self {
            // The condition on `lock_until` is checked again on the latest row, after a wait.
            acquire: format!(
                "{settings}, seen as materialized (
                    select * from {table} l where l.name = $1
                ), won as (
                    insert into {table} as l (name, lock_until, locked_at, locked_by)
                    select $1, {until}, {NOW}, $3 from c where c.is_set and not exists (
                        select from seen s where s.locked_by like '{RELEASED}' || $2 || ' %'
                        or s.lock_until > {NOW} and left(s.locked_by, {ID}) <> $2
                    )
                    on conflict (name) do update set lock_until = {until}, locked_by = excluded.locked_by,
                        locked_at = case when l.locked_by = excluded.locked_by then l.locked_at else {NOW} end
                    where l.lock_until <= {NOW} or left(l.locked_by, {ID}) = $2
                    returning l.*
                )
                select true as won, {COLUMNS} from won l union all select false, {COLUMNS} from seen l",
                until = after("$4"),
            ),
            look: format!("select {COLUMNS} from {table} l where l.name = any($1::text[])"),
            renew: format!(
                "{settings} update {table} l set lock_until = {until}
                from c, unnest($1::text[], $2::text[], $3::float8[]) with ordinality as w(name, id, ttl, number)
                where l.name = w.name and left(l.locked_by, {ID}) = w.id and l.lock_until > {NOW} and c.is_set
                returning w.number",
                until = after("w.ttl"),
            ),
            // Otherwise the end is rounded up to whole milliseconds, and the lock is free later.
            release: format!(
                "{settings} update {table} l set locked_by = left('{RELEASED}' || l.locked_by, 255),
                    lock_until = case when $3 > 0 then {until} else date_trunc('milliseconds', {NOW}) end
                from c where l.name = $1 and left(l.locked_by, {ID}) = $2 and c.is_set returning 1",
                until = after("$3"),
            ),
            list: format!(
                "select {COLUMNS} from {table} l where starts_with(l.name::text, $1) and l.lock_until > {NOW}
                order by l.name collate \"C\""
            ),
        }
    }
}

impl ShedLock {
    /// Returns the statements, which name the schema of the table.
    async fn sql(&self, table: &Table) -> Result<&ShedStatements, Error> {
        let name = table.name.qualified(&table.connection).await?;
        Ok(self.sql.get_or_init(|| ShedStatements::new(&table.config, name)))
    }

    /// Refuses a table whose times would end a lease too early. Asks once.
    async fn check(&self, table: &Table) -> Result<(), Error> {
        if self.is_checked.load(Ordering::Relaxed) {
            return Ok(());
        }
        match table.shape().await? {
            Some(shape) if shape.problems.is_empty() => self.is_checked.store(true, Ordering::Relaxed),
            Some(shape) => return Err(unsuitable(&shape.problems)),
            // The request says so.
            None => {}
        }
        Ok(())
    }

    pub(crate) async fn acquire(&self, table: &Table, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        let (name, id, ttl) = (fitting(&request.name)?, request.id.to_string(), request.ttl.as_secs_f64());
        let owner: String = request.owner.replace('\0', "\u{fffd}").chars().take(LONGEST_OWNER).collect();
        let locked_by = format!("{id} {owner}");
        self.check(table).await?;
        let rows = table
            .connection
            .query(
                &self.sql(table).await?.acquire,
                &[(&name, Type::TEXT), (&id, Type::TEXT), (&locked_by, Type::TEXT), (&ttl, Type::FLOAT8)],
            )
            .await?
            .rows;
        let (mut is_won, mut seen) = (false, None);
        for row in &rows {
            if row.try_get("won").map_err(unreadable)? { is_won = true } else { seen = Some(ShedRow::read(row)?) }
        }
        if is_won {
            let grant = Grant::default();
            return Ok(AcquireOutcome::Granted(match seen {
                Some(seen) if seen.is_of(request.id) => grant.with_already_ours(true),
                seen => grant.with_crashed(seen.filter(|seen| seen.id().is_some()).map(|seen| seen.holder())),
            }));
        }
        let row = match seen {
            Some(seen) if seen.is_held() => seen,
            Some(seen) if seen.was_released_by(request.id) => return Err(released_before()),
            // Another client won the race for a free lock. It may have released it since.
            _ => match self.look(table, &[name]).await?.remove(name) {
                Some(row) if row.is_of(request.id) => return Err(overtaken()),
                Some(row) => row,
                None => return Ok(AcquireOutcome::Contended(Holder::default())),
            },
        };
        Ok(AcquireOutcome::Contended(row.holder()))
    }

    async fn look(&self, table: &Table, names: &[&str]) -> Result<HashMap<String, ShedRow>, Error> {
        let rows = table.connection.query(&self.sql(table).await?.look, &[(&names, Type::TEXT_ARRAY)]).await?.rows;
        rows.iter().map(|row| ShedRow::read(row).map(|row| (row.name.clone(), row))).collect()
    }

    pub(crate) async fn renew_many(&self, table: &Table, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        match self.renewals(table, leases).await {
            Ok(renewals) => renewals.into_iter().map(Ok).collect(),
            Err(error) => leases.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn renewals(&self, table: &Table, leases: &[Lease]) -> Result<Vec<Renewal>, Error> {
        let names = leases.iter().map(|lease| fitting(&lease.name)).collect::<Result<Vec<_>, _>>()?;
        let ids: Vec<_> = leases.iter().map(|lease| lease.id.to_string()).collect();
        let ttls: Vec<_> = leases.iter().map(|lease| lease.ttl.as_secs_f64()).collect();
        let rows = table
            .connection
            .query(
                &self.sql(table).await?.renew,
                &[(&names, Type::TEXT_ARRAY), (&ids, Type::TEXT_ARRAY), (&ttls, Type::FLOAT8_ARRAY)],
            )
            .await?
            .rows;
        let mut renewed = vec![false; leases.len()];
        for row in &rows {
            let number: i64 = row.try_get(0).map_err(unreadable)?;
            if let Some(at) = usize::try_from(number - 1).ok().and_then(|at| renewed.get_mut(at)) {
                *at = true;
            }
        }
        if renewed.iter().all(|renewed| *renewed) {
            return Ok(leases.iter().map(|_| Renewal::Renewed).collect());
        }
        let found = self.look(table, &names).await?;
        let answer = |((lease, name), renewed): ((&Lease, &&str), bool)| match found.get(*name) {
            _ if renewed => Ok(Renewal::Renewed),
            Some(row) if row.is_of(lease.id) && row.is_held() => Err(overtaken()),
            Some(row) if row.is_of(lease.id) => Ok(Renewal::Lost(LossReason::Expired)),
            Some(row) if row.is_held() && !row.was_released_by(lease.id) => {
                Ok(Renewal::Lost(LossReason::TakenBy(Box::new(row.holder()))))
            }
            _ => Ok(Renewal::Lost(LossReason::RecordGone)),
        };
        leases.iter().zip(&names).zip(renewed).map(answer).collect()
    }

    pub(crate) async fn release(&self, table: &Table, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        let (name, id, hold_for) = (fitting(&lease.name)?, lease.id.to_string(), hold_for.as_secs_f64());
        let parameters: &[_] = &[(&name as _, Type::TEXT), (&id as _, Type::TEXT), (&hold_for as _, Type::FLOAT8)];
        if !table.connection.query(&self.sql(table).await?.release, parameters).await?.rows.is_empty() {
            return Ok(Release::Released);
        }
        let row = self.look(table, &[name]).await?.remove(name);
        let another = row.filter(|row| row.is_held() && !row.locked_by.starts_with(RELEASED));
        Ok(Release::NotHeld(another.map(|row| row.holder())))
    }

    pub(crate) async fn inspect(&self, table: &Table, name: &LockName) -> Result<Option<Holder>, Error> {
        let name = fitting(name)?;
        let row = self.look(table, &[name]).await?.remove(name);
        Ok(row.filter(ShedRow::is_held).map(|row| row.holder()))
    }

    pub(crate) async fn list(&self, table: &Table, prefix: &str) -> Result<Listing, Error> {
        if prefix.contains('\0') {
            return Ok(Listing::default());
        }
        let rows = table.connection.query(&self.sql(table).await?.list, &[(&prefix, Type::TEXT)]).await?.rows;
        let mut listing = Listing::default();
        for row in &rows {
            let row = ShedRow::read(row)?;
            match LockName::new(&row.name) {
                Ok(name) => listing.locks.push((name, row.holder())),
                Err(_) => listing.note_odd(OddEntry::new("a row of ShedLock", "its name is empty")),
            }
        }
        Ok(listing)
    }
}

/// Refuses a name for which ShedLock's column has no room.
fn fitting(name: &LockName) -> Result<&str, Error> {
    let text = name.as_str();
    if text.len() <= LONGEST_NAME && !text.contains('\0') {
        return Ok(text);
    }
    let message = format!("a name in ShedLock's table has at most {LONGEST_NAME} bytes, and no NUL; use another name");
    Err(Error::new(ErrorKind::Config, message))
}

impl ShedRow {
    fn read(row: &Row) -> Result<Self, Error> {
        let read = || {
            Ok(Self {
                name: row.try_get("name")?,
                locked_by: row.try_get("locked_by")?,
                since: row.try_get("since")?,
                expires: row.try_get("expires")?,
                now: row.try_get("now")?,
            })
        };
        read().map_err(unreadable)
    }

    /// A held row with this `locked_by`.
    #[cfg(fuzzing)]
    pub(crate) fn of_text(locked_by: &str) -> Self {
        Self { name: String::new(), locked_by: locked_by.to_owned(), since: 1.0, expires: 3.0, now: 2.0 }
    }

    fn is_held(&self) -> bool {
        self.expires > self.now
    }

    /// The id of an acquisition by onelock that has not been released.
    fn id(&self) -> Option<LeaseId> {
        self.locked_by.split(' ').next()?.parse().ok()
    }

    fn is_of(&self, id: LeaseId) -> bool {
        self.id() == Some(id)
    }

    fn was_released_by(&self, id: LeaseId) -> bool {
        self.released().is_some_and(|was| was.starts_with(&id.to_string()))
    }

    fn released(&self) -> Option<&str> {
        self.locked_by.strip_prefix(RELEASED)
    }

    pub(crate) fn holder(&self) -> Holder {
        let holder = Holder::default()
            .with_since(time(self.since))
            .with_expires_in(span(self.expires - self.now))
            .with_store_time(time(self.now));
        let ours = self.released().unwrap_or(&self.locked_by);
        match ours.split_once(' ') {
            Some((id, owner)) if id.parse::<LeaseId>().is_ok() => holder.with_owner(owner.to_owned()),
            _ => holder.with_owner(self.locked_by.clone()).with_foreign("a ShedLock client".to_owned()),
        }
    }
}
