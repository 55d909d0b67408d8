//! A separate table on PostgreSQL for each subject.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use onelock::{
    LockName,
    backend::LeaseId,
    postgres::{PostgresBackend, PostgresConfig, ServerConfig},
};
use test_support::postgres::PostgresServer;

static SERVER: OnceLock<PostgresServer> = OnceLock::new();

pub(crate) struct Rows {
    table: String,
    created: tokio::sync::OnceCell<()>,
}

impl Rows {
    pub(crate) fn new() -> Self {
        Self { table: format!("locks_{}", LeaseId::random()), created: tokio::sync::OnceCell::new() }
    }

    fn server() -> &'static PostgresServer {
        SERVER.get_or_init(PostgresServer::start)
    }

    fn sql(&self, sql: &str) -> String {
        Self::server().sql(&sql.replace("TABLE", &self.table))
    }

    /// A client of the table, which exists.
    pub(crate) async fn client(&self) -> Arc<PostgresBackend> {
        let server = ServerConfig::new().host("127.0.0.1", Self::server().port());
        let config = PostgresConfig::new(server.user("onelock").database("postgres")).table(&self.table);
        let backend = PostgresBackend::new(config).unwrap();
        self.created.get_or_init(async || assert!(backend.init().await.unwrap())).await;
        Arc::new(backend)
    }

    /// Deletes the row of a lock without a release.
    pub(crate) fn delete(&self, name: &LockName) {
        let deleted = self.sql(&format!(
            "with d as (delete from TABLE where name = {} returning 1) select count(*) from d",
            hex(name)
        ));
        assert_eq!(deleted, "1");
    }

    /// Gives the row of a lock to another client, for ten minutes.
    pub(crate) fn replace(&self, name: &LockName) {
        self.sql(&format!(
            "update TABLE set id = gen_random_uuid(), seq = seq + 1, token = token + 1, \
             expires_at = now() + interval '10 minutes' where name = {}",
            hex(name)
        ));
    }

    /// Puts a row at the place of a lock, with a name that is none.
    pub(crate) fn put_row_that_is_no_lock(&self, name: &LockName) {
        self.sql(&format!(
            "insert into TABLE (name, token, seq, expires_at) values ({} || '\\xff', 1, 1, 'infinity')",
            hex(name)
        ));
    }

    /// Makes all leases end earlier by `time`.
    ///
    /// The parts of several holders keep 5 s: those that live would have renewed them.
    pub(crate) fn age(&self, time: Duration) {
        let time = time.as_secs_f64();
        self.sql(&format!(
            "update TABLE l set (part_ends, expires_at) = (
                select array_agg(p.aged order by p.n), coalesce(max(p.aged), l.expires_at - interval '{time} s') from (
                    select q.n, greatest(q.ends - interval '{time} s', least(q.ends, now() + interval '5 s')) as aged
                    from unnest(l.part_ends) with ordinality q (ends, n)
                ) p
            )"
        ));
    }
}

/// The name as SQL.
fn hex(name: &LockName) -> String {
    let digits: String = name.as_str().bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("'\\x{digits}'::bytea")
}
