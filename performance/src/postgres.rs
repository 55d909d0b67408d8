//! Locks on PostgreSQL: acquire and release of an uncontended lock.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lock_core::{Locker, TryAcquire, backend::LeaseId};
use lock_postgres::{PostgresBackend, PostgresConfig};
use test_support::postgres::PostgresServer;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, Statement, types::Type};

use crate::{
    effort::Effort,
    flavor::Flavor,
    table::{Table, micros},
    turns,
};

const TTL: Duration = Duration::from_secs(30);
const ROUNDS: usize = 40;
/// The number of cycles in a block.
const CYCLES: u32 = 25;

/// The least that a lock needs: who holds it, and until when.
const CREATE: &str = "create table raw (name bytea primary key, id uuid, expires_at timestamptz not null)
    with (fillfactor = 50); insert into raw values ('raw', null, 'epoch'), ('named', null, 'epoch')";
const ACQUIRE: &str = "update raw set id = $2::text::uuid, expires_at = clock_timestamp() + interval '30 seconds'
    where name = $1 and expires_at <= clock_timestamp() returning 1";
const RELEASE: &str = "update raw set id = null, expires_at = clock_timestamp()
    where name = $1 and id = $2::text::uuid returning 1";

enum Contestant {
    /// Two updates without a library, as named statements.
    Named(Client, [Statement; 2]),
    /// The same, parsed each time.
    Unnamed(Client),
    Locker(Locker),
}

impl Contestant {
    async fn all(server: &PostgresServer) -> Vec<(&'static str, Self)> {
        let locker = |statements: bool| {
            let config = PostgresConfig::from_url(&server.url()).expect("a URL").named_statements(statements);
            let backend = PostgresBackend::new(config).expect("nothing contradicts");
            Self::Locker(Locker::builder(Arc::new(backend)).ttl(TTL).build().expect("defaults"))
        };
        vec![
            ("two raw updates", Self::named(connect(server).await).await),
            ("raw, statements=unnamed", Self::Unnamed(connect(server).await)),
            ("onelock", locker(true)),
            ("onelock, statements=unnamed", locker(false)),
        ]
    }

    async fn named(client: Client) -> Self {
        let prepared = async |sql| client.prepare_typed(sql, &[Type::BYTEA, Type::TEXT]).await.expect("an answer");
        let statements = [prepared(ACQUIRE).await, prepared(RELEASE).await];
        Self::Named(client, statements)
    }

    async fn cycle(&self) {
        match self {
            Self::Unnamed(client) => {
                let id = LeaseId::random().to_string();
                for sql in [ACQUIRE, RELEASE] {
                    let rows = client.query_typed(sql, &[(&b"raw".as_slice(), Type::BYTEA), (&id, Type::TEXT)]).await;
                    assert_eq!(rows.expect("the server answers").len(), 1);
                }
            }
            Self::Named(client, statements) => {
                let id = LeaseId::random().to_string();
                for statement in statements {
                    let rows = client.query(statement, &[&b"named".as_slice(), &id]).await;
                    assert_eq!(rows.expect("the server answers").len(), 1);
                }
            }
            Self::Locker(locker) => {
                let Ok(TryAcquire::Acquired(guard)) = locker.try_acquire("locker").await else { panic!("it is free") };
                let _ = guard.release().await.expect("it is held");
            }
        }
    }

    async fn block(&self) -> Vec<f64> {
        let mut times = Vec::new();
        for _ in 0..CYCLES {
            let start = Instant::now();
            self.cycle().await;
            times.push(micros(start.elapsed()));
        }
        times
    }
}

/// Opens a connection of the kind that lock-postgres uses.
async fn connect(server: &PostgresServer) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.expect("the server answers");
    tokio::spawn(connection);
    client
}

pub(crate) fn run(effort: Effort) -> Vec<Table> {
    let server = PostgresServer::with_settings(&["shared_preload_libraries=pg_stat_statements"]);
    server.sql("create extension pg_stat_statements");
    server.sql(CREATE);
    let config = PostgresConfig::from_url(&server.url()).expect("a URL");
    let backend = PostgresBackend::new(config).expect("nothing contradicts");
    assert!(Flavor::CurrentThread.runtime().block_on(backend.init()).expect("the server answers"));
    Flavor::ALL.map(|flavor| on(&flavor.runtime(), flavor.name(), &server, effort)).into()
}

fn on(runtime: &Runtime, name: &str, server: &PostgresServer, effort: Effort) -> Table {
    let (names, contestants): (Vec<_>, Vec<_>) = runtime.block_on(Contestant::all(server)).into_iter().unzip();
    let blocks = turns::take(names.len(), effort.rounds(ROUNDS), |next| runtime.block_on(contestants[next].block()));
    let mut table = Table::new(format!("PostgreSQL cycle, {name}"), &[&turns::COLUMNS[..], &["statements"]].concat());
    for (next, name) in names.iter().enumerate() {
        server.sql("select pg_stat_statements_reset()");
        drop(runtime.block_on(contestants[next].block()));
        let calls =
            "select coalesce(sum(calls), 0) from pg_stat_statements where query not like '%pg_stat_statements%'";
        let calls: f64 = server.sql(calls).parse().expect("a number");
        let statements = format!("{:.2}", calls / f64::from(CYCLES));
        table.row(*name, turns::figures(&blocks[next], &blocks[0]).into_iter().chain([statements]));
    }
    table
}
