//! The statements. Each is one transaction, and judges time by the server's clock only.

use crate::{
    config::{PostgresConfig, Replicas},
    parts_sql::{ID, PartStatements, REMEMBERED, WOKEN, holders, woken},
};

/// The statements for one table.
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) acquire: String,
    pub(crate) glance: String,
    pub(crate) look: String,
    pub(crate) renew: String,
    pub(crate) release: String,
    pub(crate) refuse_later: String,
    pub(crate) break_lock: String,
    pub(crate) purge: String,
    pub(crate) idle_names: String,
    pub(crate) sweep: String,
    pub(crate) list: String,
    pub(crate) advance_token: String,
    pub(crate) announce_waiter: String,
    pub(crate) parts: PartStatements,
}

/// How long a release notifies for, after a waiter has announced itself.
pub(crate) const WAITER_SECONDS: u64 = 60;

/// The server's clock in microseconds. Read anew wherever it stands: after a wait for a row, too.
pub(crate) const MICROS: &str = "(extract(epoch from clock_timestamp()) * 1000000)::bigint";

/// The columns that describe a row, of the alias `l`. Long values stay on the server, because a
/// third party may have written them. A time may be infinite, which only floats can show.
pub(crate) const COLUMNS: &str = "l.name, replace(l.id::text, '-', '') as id, left(l.owner, 1024) as owner, l.token, \
    l.seq, \
    extract(epoch from l.acquired_at)::float8 as since, extract(epoch from l.expires_at)::float8 as expires, \
    case when octet_length(l.data) <= 1048576 then l.data end as data, left(l.broken_by, 1024) as broken_by, \
    replace(l.last_id::text, '-', '') as last_id, l.mode, extract(epoch from clock_timestamp())::float8 as now";

/// Whether the row `l` has neither a holder, nor a crashed one of whom the next must be told, nor a
/// waiter.
const UNUSED: &str = "l.id is null
    and (l.mode is null or not exists (select from unnest(l.part_ids) i where i is not null))
    and (l.waiting_until > clock_timestamp()) is not true";

/// The settings of the server that matter to `replicas=sync`.
pub(crate) const SYNCHRONOUS: &str = "current_setting('synchronous_standby_names') <> ''";

impl Statements {
    pub(crate) fn new(config: &PostgresConfig, table: &str) -> Self {
        let settings = settings(config);
        let granting = match config.replicas {
            Replicas::Any => "c.is_set".to_owned(),
            Replicas::Sync => format!("c.is_set and {SYNCHRONOUS}"),
        };
        Self {
            acquire: acquire(table, &settings, &granting, config.replicas),
            // Without parts, because it is a part of every lost race.
            glance: format!("select {COLUMNS}, {SYNCHRONOUS} as synchronous from {table} l where l.name = $1"),
            look: format!("{} where l.name = any($1) order by l.name", holders("", &format!("{table} l"))),
            renew: format!(
                "{settings}, renewed as (
                    update {table} l set expires_at = clock_timestamp() + make_interval(secs => w.ttl),
                        ttl = make_interval(secs => w.ttl)
                    from c, unnest($1::bytea[], $2::text[], $3::float8[]) with ordinality as w(name, id, ttl, number)
                    where l.name = w.name and l.id = w.id::uuid and l.expires_at > clock_timestamp() and {granting}
                    returning w.number
                ) select number from renewed"
            ),
            release: release(table, &settings),
            refuse_later: refuse_later(table, &settings),
            break_lock: format!(
                "{settings}, broken as (
                    update {table} l set id = null, last_id = l.id, broken_by = $3, seq = l.seq + 1, data = null,
                        expires_at = clock_timestamp()
                    from c where l.name = $1 and l.seq = $2 and l.id is not null and c.is_set
                    returning l.waiters_until
                ) select {NOTIFY} from broken l",
                NOTIFY = notify("$4"),
            ),
            purge: purge(table, &settings),
            idle_names: format!("select l.name from {table} l where {idle} order by l.name", idle = idle()),
            sweep: sweep(table, &settings),
            list: format!(
                "{} where l.name >= $1 and ($2::bytea is null or l.name < $2) and l.expires_at > clock_timestamp()
                order by l.name",
                holders("", &format!("{table} l")),
            ),
            advance_token: format!(
                "{settings} update {table} l set token = greatest(l.token, $3) from c
                where l.name = $1 and l.id = {ID} and l.expires_at > clock_timestamp() and {granting}
                returning 1"
            ),
            // Not made durable, because a waiter that is not woken polls. Also while the lock is
            // free: a process that lets others have it waits for their release.
            announce_waiter: format!(
                "with c as materialized (
                    select set_config('synchronous_commit', 'off', true) = 'off' and {bounded} as is_set
                ) update {table} l set waiters_until = clock_timestamp() + make_interval(secs => {WAITER_SECONDS})
                from c where l.name = $1 and c.is_set and
                    coalesce(l.waiters_until, 'epoch')
                        < clock_timestamp() + make_interval(secs => {WAITER_SECONDS}) / 2",
                bounded = bounded(config),
            ),
            parts: PartStatements::new(config, table),
        }
    }
}

/// Sets what the server may have set otherwise, for this statement only. The result must be used,
/// or the planner leaves the call out.
///
/// With `synchronous_commit = off` the server would answer before the lock is on disk, and forget
/// it in a crash. Only a warning tells that a standby has not confirmed a commit.
pub(crate) fn settings(config: &PostgresConfig) -> String {
    let warned = match config.replicas {
        Replicas::Any => "",
        Replicas::Sync => "set_config('client_min_messages', 'warning', true) <> '' and ",
    };
    format!(
        "with c as materialized (select set_config('synchronous_commit', 'on', true) = 'on' and {warned}{} as is_set)",
        bounded(config)
    )
}

/// Requests share one connection, so a row that another transaction keeps locked must not hold up
/// the renewals of other locks for long.
fn bounded(config: &PostgresConfig) -> String {
    format!("set_config('lock_timeout', '{}ms', true) <> ''", (config.timeout / 2).as_millis())
}

/// Values for [`COLUMNS`] of which only the token is there.
fn columns(token: &str) -> String {
    format!("null, null, null, {token}, null, null, null, null, null, null, null, null")
}

/// Parameters: name, id, owner, ttl in seconds, data, the number of reserved tokens.
///
/// `seen` is the row before the statement. `seq` has the same value in `l` only if no other
/// acquisition, release or break came in between, so the holder in `seen` is the crashed one.
fn acquire(table: &str, settings: &str, granting: &str, replicas: Replicas) -> String {
    // A server that may not grant says so, also of a lock without a row.
    let refusal = match replicas {
        Replicas::Any => String::new(),
        Replicas::Sync => {
            format!("union all select false, false, {}, false where not ({SYNCHRONOUS})", columns("null"))
        }
    };
    format!(
        "{settings}, seen as materialized (
            select * from {table} l where l.name = $1
        ), won as (
            insert into {table} as l (name, id, owner, token, seq, acquired_at, expires_at, ttl, data)
            select $1, {ID}, $3, t.micros + $6, t.micros, clock_timestamp(), clock_timestamp() + t.ttl, t.ttl, $5
            from c, lateral (select {MICROS} as micros, make_interval(secs => $4) as ttl) t
            where {granting} and not exists (
                select from seen s where s.last_id = {ID} or {ID} = any(s.ended_ids)
                or s.expires_at > clock_timestamp() and s.id is distinct from {ID}
            )
            on conflict (name) do update set
                id = excluded.id, owner = excluded.owner, ttl = excluded.ttl, data = excluded.data, mode = null,
                waiting_until = case when l.waiting_id = excluded.id then null else l.waiting_until end,
                token = case when l.id = excluded.id then l.token else greatest(l.token + 1, {MICROS}) + $6 end,
                seq = case when l.id = excluded.id then l.seq else l.seq + 1 end,
                acquired_at = case when l.id = excluded.id then l.acquired_at else clock_timestamp() end,
                expires_at = clock_timestamp() + excluded.ttl
            where l.seq = (select s.seq from seen s) and (l.id = excluded.id or l.expires_at <= clock_timestamp())
                and l.last_id is distinct from excluded.id and (excluded.id = any(l.ended_ids)) is not true
            returning l.token
        )
        select false as won, (l.last_id = {ID} or {ID} = any(l.ended_ids)) is true as is_ended, {COLUMNS},
            {SYNCHRONOUS} as synchronous from seen l
        union all select true, false, {granted}, {SYNCHRONOUS} from won l {refusal}",
        granted = columns("l.token"),
    )
}

/// Parameters: name, id, how long the lock is kept in seconds, channel.
fn release(table: &str, settings: &str) -> String {
    format!(
        "{settings}, released as (
            update {table} l set id = null, last_id = l.id, broken_by = null, seq = l.seq + 1, data = null,
                expires_at = clock_timestamp() + make_interval(secs => $3)
            from c where l.name = $1 and l.id = {ID} and c.is_set
            returning l.waiters_until
        ) select {} from released l",
        notify("$4")
    )
}

/// Notes that the id must not be granted any more, because its request may still be on its way, and
/// ends its wait. Parameters: name, id, channel.
fn refuse_later(table: &str, settings: &str) -> String {
    let is_free = "l.id is null and l.broken_by is null";
    // Otherwise `last_id` tells a holder of its break, or will tell of the next one.
    let is_known = format!("(l.last_id is not distinct from {ID} or ({ID} = any(l.ended_ids)) is true)");
    format!(
        "{settings}, noted as (
            insert into {table} as l (name, token, seq, expires_at, last_id)
            select $1, 0, {MICROS}, 'epoch', {ID} from c where c.is_set
            on conflict (name) do update set
                last_id = case when {is_free} then excluded.last_id else l.last_id end,
                ended_ids = case when {is_free} or {is_known} then l.ended_ids
                    else (array[{ID}] || l.ended_ids)[1:{REMEMBERED}] end,
                ended_by = case when {is_free} or {is_known} then l.ended_by
                    else (array[null::text] || l.ended_by)[1:{REMEMBERED}] end,
                waiting_until = case when l.waiting_id = excluded.last_id then null else l.waiting_until end
            where {is_free} or not {is_known} or l.waiting_id = excluded.last_id
            returning l.waiters_until
        ), {woken}
        {holders} where l.name = $1",
        woken = woken(table, "$3"),
        holders = holders(WOKEN, &format!("{table} l")),
    )
}

/// Parameter: name.
fn purge(table: &str, settings: &str) -> String {
    format!(
        "{settings}, deleted as (
            delete from {table} l using c
            where l.name = $1 and {UNUSED} and l.expires_at <= clock_timestamp() and c.is_set
            returning 1
        ) select exists (select from deleted) or not exists (select from {table} l where l.name = $1)"
    )
}

/// Whether the row `l` has not been used for `$1` seconds. The next token of its name is taken from
/// the clock, so a token that was raised beyond the clock stays in its row.
fn idle() -> String {
    format!(
        "{UNUSED} and l.expires_at < clock_timestamp() - make_interval(secs => $1) and l.token < {MICROS}
        and (l.waiters_until > clock_timestamp()) is not true"
    )
}

/// Parameters: seconds, names. The rows are locked in the order of their names, so that two sweeps
/// cannot deadlock.
fn sweep(table: &str, settings: &str) -> String {
    format!(
        "{settings}, idle as materialized (
            select l.name from {table} l
            where l.name = any($2::bytea[]) and (select c.is_set from c) and {idle} order by l.name for update
        ), deleted as (
            delete from {table} l using idle where l.name = idle.name returning l.name
        ) select w.number from deleted d, unnest($2::bytea[]) with ordinality w (name, number) where d.name = w.name",
        idle = idle()
    )
}

/// Notifies only if a waiter has announced itself: a NOTIFY makes commits of the whole server queue
/// behind each other.
pub(crate) fn notify(channel: &str) -> String {
    format!("case when l.waiters_until > clock_timestamp() then pg_notify({channel}, '')::text end")
}
