//! The statements about locks that may have several holders: shared locks and permits.
//!
//! The holders are parallel arrays in the row of their lock, which alone decides. So one row lock
//! orders all changes, and every condition is checked on the latest version of that row. A renewal
//! replaces the array of the ends, and no other value.

use crate::{
    config::{PostgresConfig, Replicas},
    sql::{COLUMNS, MICROS, SYNCHRONOUS, notify, settings},
};

/// The statements for one table.
#[derive(Debug)]
pub(crate) struct PartStatements {
    pub(crate) join: String,
    pub(crate) state: String,
    pub(crate) renew: String,
    pub(crate) release: String,
    pub(crate) refuse_later: String,
    pub(crate) break_part: String,
    pub(crate) advance_token: String,
    pub(crate) crashed: String,
}

/// The lease id in the parameters of most statements.
pub(crate) const ID: &str = "$2::text::uuid";

/// How many parts an answer names.
const NAMED: usize = 16;

/// How many ids a row remembers that have released their parts, or whose parts were broken. A late
/// request with such an id is refused.
pub(crate) const REMEMBERED: usize = 64;

/// The parts in the row `l`, in the order of [`PART`].
const PARTS: &str = "unnest(l.part_ids, l.part_ends, l.part_owners, l.part_tokens, l.part_since, l.part_data)";

/// Whether the row `l` is that of a shared lock or of permits. A client of an earlier version that
/// takes over such a lock alone leaves the mode in the row, and the ended parts. Its minimum hold
/// has no id, but the time of its acquisition.
pub(crate) const JOINED: &str = "l.mode is not null and l.id is null and l.acquired_at is null";

/// The columns of a part. Its id is null once it was released, in its minimum hold.
const PART: &str = "id, ends, owner, token, since, data";

/// The arrays of the parts, and what follows from them.
const ARRAYS: &str = "part_ids, part_ends, part_owners, part_tokens, part_since, part_data, mode, expires_at";

/// Shows a part `q`. Long values stay on the server, because a third party may have written them.
const SHOWN: &str = "replace(q.id::text, '-', '') as part_id, left(q.owner, 1024) as part_owner, \
    q.token as part_token, extract(epoch from q.since)::float8 as part_since, \
    extract(epoch from q.ends)::float8 as part_expires, \
    case when sum(octet_length(q.data)) over (order by q.ends rows unbounded preceding) <= 1048576 then q.data end \
        as part_data, \
    count(*) over () as parts";

/// The expressions for [`ARRAYS`], over the parts `p` that stay. The mode stays with them, because
/// those of crashed holders have to be reported.
const STAYING: &str = "array_agg(p.id order by p.n), array_agg(p.ends order by p.n), \
    array_agg(p.owner order by p.n), array_agg(p.token order by p.n), array_agg(p.since order by p.n), \
    array_agg(p.data order by p.n)";

/// Selects rows of `from`, which has the row `l` of a lock: one row for each part that holds it.
/// `more` are further columns.
pub(crate) fn holders(more: &str, from: &str) -> String {
    format!(
        "select {more} {COLUMNS}, {SYNCHRONOUS} as synchronous, p.* from {from} left join lateral (
            select {SHOWN} from {PARTS} q ({PART})
            where {JOINED} and q.ends > clock_timestamp() order by q.ends limit {NAMED}
        ) p on true"
    )
}

impl PartStatements {
    pub(crate) fn new(config: &PostgresConfig, table: &str) -> Self {
        let settings = settings(config);
        let granting = match config.replicas {
            Replicas::Any => "c.is_set".to_owned(),
            Replicas::Sync => format!("c.is_set and {SYNCHRONOUS}"),
        };
        let listed = format!("{JOINED} and {ID} = any(l.part_ids)");
        Self {
            join: join(table, &settings, &granting),
            state: state(table, &settings),
            renew: renew(table, &settings, &granting),
            release: format!(
                "{settings}, released as (
                    update {table} l set {ended} from c where l.name = $1 and {listed} and c.is_set
                    returning l.waiters_until
                ) select {notify} from released l",
                ended = ended("$3", "null::text"),
                notify = notify("$4"),
            ),
            refuse_later: refuse_later(table, &settings),
            break_part: format!(
                "{settings}, broken as (
                    update {table} l set {ended} from c where l.name = $1 and {listed} and c.is_set
                    returning l.waiters_until
                ) select {notify} from broken l",
                ended = ended("0", "$3::text"),
                notify = notify("$4"),
            ),
            advance_token: format!(
                "{settings} update {table} l set token = greatest(l.token, $3),
                    part_tokens[array_position(l.part_ids, {ID})]
                        = greatest(l.part_tokens[array_position(l.part_ids, {ID})], $3)
                from c where l.name = $1 and {held} and {granting} returning 1",
                held = held(),
            ),
            // They stay in the row until the next acquisition of a part.
            crashed: format!(
                "select {SHOWN}, extract(epoch from clock_timestamp())::float8 as now
                from {table} l, {PARTS} q ({PART}) where l.name = $1 and q.id is not null
                order by q.ends desc limit {NAMED}"
            ),
        }
    }
}

/// Whether the id has a part of the row `l` that has not ended. A third party may have ended the
/// lock before its parts.
fn held() -> String {
    format!(
        "{JOINED} and l.expires_at > clock_timestamp() and exists (
            select from unnest(l.part_ids, l.part_ends) p (id, ends) where p.id = {ID} and p.ends > clock_timestamp()
        )"
    )
}

/// Ends the part of the id in the row `l`, after `hold` seconds. `by` is null for a release.
/// Removes minimum holds that are over. If a third party has ended the lock before its parts, none
/// of these becomes valid again; those of crashed holders stay, because they have to be reported.
fn ended(hold: &str, by: &str) -> String {
    format!(
        "seq = l.seq + 1,
        ended_ids = (array[{ID}] || l.ended_ids)[1:{REMEMBERED}],
        ended_by = (array[{by}] || l.ended_by)[1:{REMEMBERED}],
        ({ARRAYS}) = (
            select {STAYING}, case when count(*) > 0 then l.mode end,
                coalesce(max(p.ends) filter (where p.is_own or l.expires_at > clock_timestamp()), clock_timestamp())
            from (
                select nullif(q.id, {ID}) as id, q.id = {ID} as is_own, q.owner, q.token, q.since, q.n,
                    case when q.id is distinct from {ID} then q.data end as data,
                    case when q.id = {ID} then clock_timestamp() + make_interval(secs => {hold}) else q.ends end as ends
                from {PARTS} with ordinality q ({PART}, n) where case
                    when q.id = {ID} then {hold} > 0
                    when l.expires_at > clock_timestamp() then q.id is not null or q.ends > clock_timestamp()
                    else q.id is not null and q.ends <= clock_timestamp() end
            ) p
        )"
    )
}

/// Parameters: name, id, owner, ttl in seconds, data, mode, number of permits.
///
/// The condition of `mine` is checked again on the latest version of the row, after a wait for it.
/// It begins with the settings, because one of them limits this wait. A refused request locks and
/// writes nothing. A third party may have written a single holder beside the mode, or an end of the
/// lock before those of its parts. The first is not joined, and the second frees the whole lock.
fn join(table: &str, settings: &str, granting: &str) -> String {
    let own = format!(
        "{joined} and m.expires_at > m.now and exists (
            select from unnest(m.part_ids, m.part_ends) p (id, ends) where p.id = {ID} and p.ends > m.now
        )",
        joined = JOINED.replace("l.", "m."),
    );
    let now = "extract(epoch from clock_timestamp())::float8 as now";
    format!(
        "{settings}, mine as materialized (
            select * from {table} l where l.name = $1 and (select c.is_set from c) and ({held} or (
                ({ID} = any(l.ended_ids)) is not true
                and (l.waiting_until > clock_timestamp() and l.waiting_mode <> $6) is not true
                and (l.expires_at <= clock_timestamp() or {JOINED} and l.mode = $6 and ($7::int is null or $7 > (
                    select count(*) from unnest(l.part_ends) e where e > clock_timestamp()
                )))
            )) for update
        ), next as materialized (
            select m.*, {own} as own from (
                select m.*, clock_timestamp() as now, greatest(m.token + 1, {MICROS}) as next_token
                from mine m offset 0
            ) m
        ), joined as (
            update {table} l set
                id = null, owner = null, data = null, acquired_at = null, ttl = null,
                token = case when n.own then l.token else n.next_token end,
                seq = case when n.own then l.seq else l.seq + 1 end,
                waiting_until = case when l.waiting_id = {ID} then null else l.waiting_until end,
                ({ARRAYS}) = (
                    select {STAYING}, $6, max(p.ends) from (
                        select q.id, q.owner, q.token, q.since, q.data, q.n, case when q.id = {ID}
                            then clock_timestamp() + make_interval(secs => $4) else q.ends end as ends
                        from {PARTS} with ordinality q ({PART}, n)
                        where {joined} and q.ends > n.now and n.expires_at > n.now
                        union all select {ID}, $3, n.next_token, n.now, $5, 1000000000,
                            clock_timestamp() + make_interval(secs => $4) where not n.own
                    ) p
                )
            from next n, c where l.name = $1 and {granting}
            returning l.part_ids, l.part_tokens
        ), made as (
            insert into {table} as l (name, token, seq, {ARRAYS})
            select $1, t.micros, t.micros, array[{ID}], array[t.ends], array[$3], array[t.micros],
                array[clock_timestamp()], array[$5], $6, t.ends
            from c, lateral (
                select {MICROS} as micros, clock_timestamp() + make_interval(secs => $4) as ends
            ) t
            where {granting} and not exists (select from {table} l where l.name = $1)
            on conflict (name) do nothing
            returning l.part_ids, l.part_tokens
        ), done as (select * from joined union all select * from made)
        select true as is_grant, (select n.own from next n) as own, null as mode, null as part_id,
            null as part_owner, g.part_tokens[array_position(g.part_ids, {ID})] as part_token,
            null::float8 as part_since, null::float8 as part_expires, null::bytea as part_data,
            0::bigint as parts, {now}
        from done g
        union all select false, null, n.mode, q.*, {now} from next n, lateral (
            select {SHOWN} from unnest(n.part_ids, n.part_ends, n.part_owners, n.part_tokens, n.part_since, n.part_data)
                q ({PART})
            where {joined} and q.id <> {ID} and q.ends <= n.now order by q.ends desc limit {NAMED}
        ) q where exists (select from done)
        union all select false, null, null, n.seq::text, left(n.owner, 1024), n.token,
            extract(epoch from n.acquired_at)::float8, extract(epoch from n.expires_at)::float8,
            case when octet_length(n.data) <= 1048576 then n.data end, 1, {now}
        from next n where n.id is not null and exists (select from done)",
        joined = JOINED.replace("l.", "n."),
        held = held(),
    )
}

/// Parameters: name, id, mode, owner, ttl in seconds, whether the request waits.
///
/// Reads the holders and what the row has of the id, and notes a request that waits for holders of
/// another mode: at its first attempt, and when half of the mark's time is over.
fn state(table: &str, settings: &str) -> String {
    format!(
        "{settings}, noted as (
            update {table} l set waiting_id = {ID}, waiting_mode = $3, waiting_owner = $4,
                waiting_until = clock_timestamp() + make_interval(secs => $5)
            from c where l.name = $1 and $6 and c.is_set and l.expires_at > clock_timestamp()
                and coalesce(case when {JOINED} then l.mode end, 'exclusive') <> $3
                and not ({JOINED} and l.mode like 'permit %' and $3 like 'permit %')
                and case when l.waiting_id = {ID}
                    then (l.waiting_until > clock_timestamp() + make_interval(secs => $5) / 2) is not true
                    else (l.waiting_until > clock_timestamp()) is not true end
                and l.last_id is distinct from {ID} and ({ID} = any(l.ended_ids)) is not true
        )
        {holders}",
        holders = holders_with_own("", table),
    )
}

/// As [`holders`], with what the row has of the id. There is always an answer.
fn holders_with_own(more: &str, table: &str) -> String {
    let own = format!(
        "{more} {held} as is_ours, ({ID} = any(l.part_ids)) is true as is_listed,
            ({ID} = any(l.ended_ids)) is true as is_ended,
        left(l.ended_by[array_position(l.ended_ids, {ID})], 1024) as ended_by,
        l.waiting_mode, left(l.waiting_owner, 1024) as waiting_owner,
        extract(epoch from l.waiting_until)::float8 as waiting_until,",
        held = held(),
    );
    holders(&own, &format!("c left join {table} l on l.name = $1"))
}

/// Parameters: names, ids, ttls in seconds.
///
/// A row is updated once, so the parts of one name come together. The rows are locked in the order
/// of their names, so that the batches of two processes cannot deadlock.
fn renew(table: &str, settings: &str, granting: &str) -> String {
    format!(
        "{settings}, wanted as materialized (
            select w.name, array_agg(w.id::uuid) as ids, array_agg(w.ttl) as ttls
            from unnest($1::bytea[], $2::text[], $3::float8[]) w (name, id, ttl) group by w.name
        ), locked as materialized (
            select l.name from {table} l
            where l.name = any($1::bytea[]) and (select c.is_set from c)
                and {JOINED} and l.expires_at > clock_timestamp() and l.part_ids && ($2::text[])::uuid[]
            order by l.name for update
        ), renewed as (
            update {table} l set (part_ends, expires_at) = (
                select array_agg(p.ends order by p.n), max(p.ends) from (
                    select q.n, case when q.ends > clock_timestamp() and q.id = any(w.ids)
                        then clock_timestamp() + make_interval(secs => w.ttls[array_position(w.ids, q.id)])
                        else q.ends end as ends
                    from unnest(l.part_ids, l.part_ends) with ordinality q (id, ends, n)
                ) p
            )
            from locked, wanted w, c where l.name = locked.name and l.name = w.name and {granting}
                and {JOINED} and l.expires_at > clock_timestamp() and exists (
                    select from unnest(l.part_ids, l.part_ends) p (id, ends)
                    where p.id = any(w.ids) and p.ends > clock_timestamp()
                )
            returning array(
                select replace(p.id::text, '-', '') from unnest(l.part_ids, l.part_ends) p (id, ends)
                where p.id = any(w.ids) and p.ends > clock_timestamp()
            ) as ids
        ) select ids from renewed"
    )
}

/// Notes that the id must not be granted any more, because its request may still be on its way, and
/// ends its wait. Parameters: name, id, channel.
fn refuse_later(table: &str, settings: &str) -> String {
    let known = format!("({ID} = any(l.ended_ids)) is true");
    format!(
        "{settings}, noted as (
            insert into {table} as l (name, token, seq, expires_at, ended_ids, ended_by)
            select $1, 0, {MICROS}, 'epoch', array[{ID}], array[null::text] from c where c.is_set
            on conflict (name) do update set
                ended_ids = case when {known} then l.ended_ids
                    else (excluded.ended_ids || l.ended_ids)[1:{REMEMBERED}] end,
                ended_by = case when {known} then l.ended_by
                    else (excluded.ended_by || l.ended_by)[1:{REMEMBERED}] end,
                waiting_until = case when l.waiting_id = {ID} then null else l.waiting_until end
            where not {known} or l.waiting_id = {ID}
            returning l.waiters_until
        ), {woken}
        {holders}",
        woken = woken(table, "$3"),
        holders = holders_with_own(WOKEN, table),
    )
}

/// The column that runs `woken`.
pub(crate) const WOKEN: &str = "(select count(*) from woken),";

/// Wakes the waiters that the request of the id kept out, after `noted`.
pub(crate) fn woken(table: &str, channel: &str) -> String {
    format!(
        "woken as materialized (
            select {notify} from noted l where exists (
                select from {table} s where s.name = $1 and s.waiting_id = {ID} and s.waiting_until > clock_timestamp()
            )
        )",
        notify = notify(channel),
    )
}
