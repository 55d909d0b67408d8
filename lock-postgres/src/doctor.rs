//! Checks whether a PostgreSQL is fit for locks, by what the server reports about itself.

use std::time::{Duration, SystemTime};

use lock_core::{
    Error, ErrorKind,
    backend::{Finding, Level},
};
use tokio_postgres::types::Type;

use crate::{config::Replicas, connection::ConnectionSlot, listen::Listener, table::Table};

/// A server that keeps the versions of rows for as long as this has tables full of dead rows.
const OLD_TRANSACTIONS: f64 = 600.0;

/// The settings and states to ask for, in the order of [`Facts`].
const FACTS: &str = "select current_setting('server_version'), pg_is_in_recovery(), \
    current_setting('fsync') = 'on', current_setting('full_page_writes') = 'on', \
    current_setting('default_transaction_isolation'), current_setting('synchronous_standby_names'), \
    current_setting('server_encoding'), extract(epoch from clock_timestamp())::float8, \
    coalesce(current_setting('idle_session_timeout', true), '0'), \
    (select count(*) from pg_catalog.pg_stat_replication), \
    (select max(extract(epoch from clock_timestamp() - xact_start))::float8 \
        from pg_catalog.pg_stat_activity where backend_xmin is not null and pid <> pg_backend_pid())";

/// The rights that locks need. `has_table_privilege` refuses a table that is not there.
const RIGHTS: &str = "select coalesce(string_agg(r, ', '), '') from unnest(array['SELECT', 'INSERT', 'UPDATE', \
    'DELETE']) r where not has_table_privilege(to_regclass($1), r)";

struct Facts {
    version: String,
    is_standby: bool,
    fsync: bool,
    full_page_writes: bool,
    isolation: String,
    synchronous: String,
    encoding: String,
    now: f64,
    idle_timeout: String,
    standbys: i64,
    oldest: Option<f64>,
    /// Half of the time that the answer took.
    uncertain: Duration,
}

/// Examines the server, the table, and the way of the wake-ups.
pub(crate) async fn examine(
    table: &Table,
    replicas: Replicas,
    listener: Option<&std::sync::Arc<Listener>>,
) -> Vec<Finding> {
    let facts = match ask(&table.connection).await {
        Ok(facts) => facts,
        Err(error) => return vec![unanswered("server", &error)],
    };
    let mut findings = judge(&facts, replicas);
    findings.extend(examine_table(table).await);
    if let (false, Some(listener)) = (facts.is_standby, listener) {
        findings.push(match listener.hears_itself(table).await {
            Ok(true) => Finding::good("wake-ups", "notifications arrive: a release wakes waiters"),
            Ok(false) => Finding::warning("wake-ups", "notifications do not arrive, as behind a pooler: waiters poll")
                .advice("name the server itself by the option listen, or set wake=off"),
            Err(error) => unanswered("wake-ups", &error),
        });
    }
    findings
}

async fn ask(connection: &ConnectionSlot) -> Result<Facts, Error> {
    let asked = SystemTime::now();
    let rows = connection.query(FACTS, &[]).await?.rows;
    let uncertain = asked.elapsed().unwrap_or_default() / 2;
    let row = rows.first().ok_or_else(|| Error::new(ErrorKind::Corrupt, "PostgreSQL did not answer a question"))?;
    let read = || {
        Ok(Facts {
            version: row.try_get(0)?,
            is_standby: row.try_get(1)?,
            fsync: row.try_get(2)?,
            full_page_writes: row.try_get(3)?,
            isolation: row.try_get(4)?,
            synchronous: row.try_get(5)?,
            encoding: row.try_get(6)?,
            now: row.try_get(7)?,
            idle_timeout: row.try_get(8)?,
            standbys: row.try_get(9)?,
            oldest: row.try_get(10)?,
            uncertain,
        })
    };
    read().map_err(crate::error::unreadable)
}

fn judge(facts: &Facts, replicas: Replicas) -> Vec<Finding> {
    let mut findings = vec![Finding::good("server version", format!("PostgreSQL {}", facts.version))];
    if facts.is_standby {
        findings.push(
            Finding::unfit("standby", "this server is a standby, which accepts no locks")
                .advice("connect to the primary, or name all servers: postgres://HOST1,HOST2/DB"),
        );
        return findings;
    }
    findings.push(match (facts.fsync, facts.full_page_writes) {
        (true, true) => Finding::good("durability", "a granted lock survives a crash of the server"),
        (false, _) => {
            Finding::warning("durability", "fsync is off: a crash of the machine loses held locks, or the database")
                .advice("set fsync to on")
        }
        (true, false) => {
            Finding::warning("durability", "full_page_writes is off: a crash of the machine may damage the table")
                .advice("set full_page_writes to on")
        }
    });
    findings.push(standbys(facts, replicas));
    findings.push(match facts.isolation.as_str() {
        "read committed" => Finding::good("isolation", "read committed"),
        other => Finding::note(
            "isolation",
            format!("{other} is the default: a client that loses a race gets an error, and tries again"),
        )
        .advice("alter role USER set default_transaction_isolation = 'read committed'"),
    });
    if facts.encoding != "UTF8" {
        let text = format!("{}: an owner with other characters is refused", facts.encoding);
        findings.push(Finding::warning("encoding", text).advice("use a database in UTF8"));
    }
    findings.push(clock(facts));
    if let Some(oldest) = facts.oldest.filter(|age| *age > OLD_TRANSACTIONS) {
        let text = format!(
            "a transaction has been open for {oldest:.0} s: old versions of rows cannot be removed, and statements get \
             slower"
        );
        findings.push(Finding::warning("old transactions", text).advice("find it in pg_stat_activity and end it"));
    }
    if facts.idle_timeout != "0" {
        let text = format!("idle_session_timeout is {}: idle connections are opened again", facts.idle_timeout);
        findings.push(Finding::note("idle timeout", text));
    }
    findings
}

fn standbys(facts: &Facts, replicas: Replicas) -> Finding {
    match (replicas, facts.synchronous.is_empty(), facts.standbys) {
        (Replicas::Sync, true, _) => {
            Finding::unfit("standbys", "replicas=sync, but synchronous_standby_names is empty: no lock can be acquired")
                .advice("set synchronous_standby_names, or use replicas=any")
        }
        (_, false, _) => Finding::good("standbys", "a synchronous standby confirms every lock"),
        (Replicas::Any, true, 0) => Finding::note(
            "standbys",
            "none is visible: no failover is possible, or this user \
            may not see it",
        ),
        (Replicas::Any, true, number) => Finding::warning(
            "standbys",
            format!("{number} connected, none confirms locks: after a failover a lock may have two holders"),
        )
        .advice("set synchronous_standby_names and replicas=sync, or have the protected resource compare tokens"),
    }
}

/// Compares the server's clock with this machine's. Leases use only the server's clock, so this is
/// informational.
fn clock(facts: &Facts) -> Finding {
    let ours = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let apart = facts.now - (ours.as_secs_f64() - facts.uncertain.as_secs_f64());
    let side = if apart < 0.0 { "behind" } else { "ahead of" };
    let shown = format!("{:.1} s {side} this machine", apart.abs());
    if apart.abs() <= 1.0 + facts.uncertain.as_secs_f64() {
        return Finding::good("clock", shown);
    }
    Finding::note("clock", format!("{shown}; leases use only the server's clock, and records show times of that clock"))
        .advice("synchronise both clocks")
}

async fn examine_table(table: &Table) -> Vec<Finding> {
    let name = match table.name.qualified_or_new(&table.connection).await {
        Ok(name) => name,
        Err(error) => return vec![unanswered("table", &error)],
    };
    let shape = match table.shape().await {
        Ok(Some(shape)) => shape,
        Ok(None) => {
            let text = format!("there is no table {name}");
            return vec![Finding::unfit("table", text).advice("run onelock init, or check the option table")];
        }
        Err(error) => return vec![unanswered("table", &error)],
    };
    let finding = |level, text: &String| Finding::new(level, "table", text.as_str());
    let mut findings: Vec<_> = shape.problems.iter().map(|text| finding(Level::Unfit, text)).collect();
    findings.extend(shape.warnings.iter().map(|text| finding(Level::Warning, text)));
    if findings.is_empty() {
        findings.push(Finding::good("table", format!("{name} has the columns of locks, and is logged")));
    }
    match table.connection.query(RIGHTS, &[(&name, Type::TEXT)]).await {
        Ok(answer) => {
            let missing: String = answer.rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or_default();
            findings.push(if missing.is_empty() {
                Finding::good("rights", "this user may select, insert, update and delete")
            } else {
                Finding::unfit("rights", format!("this user lacks {missing} on {name}"))
                    .advice("grant select, insert, update and delete on the table")
            });
        }
        Err(error) => findings.push(unanswered("rights", &error)),
    }
    findings
}

/// The finding for a failed question: the server does not answer, or refuses.
fn unanswered(subject: &str, error: &Error) -> Finding {
    Finding::warning(subject, format!("not examined: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            version: "15.18".into(),
            is_standby: false,
            fsync: true,
            full_page_writes: true,
            isolation: "read committed".into(),
            synchronous: String::new(),
            encoding: "UTF8".into(),
            now: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64(),
            idle_timeout: "0".into(),
            standbys: 0,
            oldest: None,
            uncertain: Duration::ZERO,
        }
    }

    fn level(facts: &Facts, replicas: Replicas, subject: &str) -> Option<Level> {
        judge(facts, replicas).into_iter().find(|finding| finding.subject == subject).map(|finding| finding.level)
    }

    #[test]
    fn standbys_are_judged_by_the_configured_replicas() {
        for (standbys, synchronous, replicas, expected) in [
            (0, "", Replicas::Any, Level::Note),
            (1, "", Replicas::Any, Level::Warning),
            (1, "*", Replicas::Any, Level::Good),
            (1, "*", Replicas::Sync, Level::Good),
            (1, "", Replicas::Sync, Level::Unfit),
        ] {
            let facts = Facts { standbys, synchronous: synchronous.into(), ..facts() };
            assert_eq!(level(&facts, replicas, "standbys"), Some(expected), "{standbys} {synchronous} {replicas:?}");
        }
        let standby = Facts { is_standby: true, ..facts() };
        assert_eq!(level(&standby, Replicas::Any, "standby"), Some(Level::Unfit));
    }

    #[test]
    fn risky_settings_are_warned_of() {
        let any = Replicas::Any;
        assert_eq!(level(&Facts { fsync: false, ..facts() }, any, "durability"), Some(Level::Warning));
        assert_eq!(level(&Facts { full_page_writes: false, ..facts() }, any, "durability"), Some(Level::Warning));
        assert_eq!(level(&Facts { isolation: "serializable".into(), ..facts() }, any, "isolation"), Some(Level::Note));
        assert_eq!(level(&Facts { encoding: "LATIN1".into(), ..facts() }, any, "encoding"), Some(Level::Warning));
        assert_eq!(level(&Facts { now: 0.0, ..facts() }, any, "clock"), Some(Level::Note));
        assert_eq!(level(&facts(), any, "clock"), Some(Level::Good));
        let old = Facts { oldest: Some(OLD_TRANSACTIONS + 1.0), ..facts() };
        assert_eq!(level(&old, any, "old transactions"), Some(Level::Warning));
        assert_eq!(level(&facts(), any, "old transactions"), None);
    }
}
