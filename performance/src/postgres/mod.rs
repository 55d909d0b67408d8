//! Locks on PostgreSQL: acquire and release of an uncontended lock, and many held ones.

pub(crate) mod held;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lock_core::{Locker, Mode, TryAcquire, backend::LeaseId};
use lock_postgres::{PostgresBackend, PostgresConfig};
use test_support::postgres::PostgresServer;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, Statement, types::Type};

use crate::{
    effort::Effort,
    flavor::Flavor,
    table::{FOUR_PERMITS, Table, micros},
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
    /// With the name of the lock.
    Locker(Locker, &'static str),
}

impl Contestant {
    async fn all(server: &PostgresServer) -> Vec<(&'static str, Self)> {
        let locker = |statements: bool, mode, name| {
            let backend = open(config(&server.url()).named_statements(statements));
            Self::Locker(
                Locker::builder(Arc::new(backend)).ttl(TTL).mode(mode).build().expect("the store has the mode"),
                name,
            )
        };
        vec![
            ("two raw updates", Self::named(connect(&server.url()).await).await),
            ("raw, statements=unnamed", Self::Unnamed(connect(&server.url()).await)),
            ("onelock", locker(true, Mode::Exclusive, "exclusive")),
            ("onelock, statements=unnamed", locker(false, Mode::Exclusive, "unnamed")),
            ("onelock, shared", locker(true, Mode::Shared, "shared")),
            ("onelock, one of 4 permits", locker(true, FOUR_PERMITS, "permits")),
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
            Self::Locker(locker, name) => {
                let Ok(TryAcquire::Acquired(guard)) = locker.try_acquire(*name).await else { panic!("it is free") };
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
async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the server answers");
    tokio::spawn(connection);
    client
}

pub(crate) fn backend(url: &str) -> PostgresBackend {
    open(config(url))
}

fn config(url: &str) -> PostgresConfig {
    PostgresConfig::from_url(url).expect("a URL")
}

fn open(config: PostgresConfig) -> PostgresBackend {
    PostgresBackend::new(config).expect("nothing contradicts")
}

/// Starts a server with the table of onelock, which counts its statements.
fn counting_server() -> PostgresServer {
    let server = PostgresServer::with_settings(&["shared_preload_libraries=pg_stat_statements"]);
    server.sql("create extension pg_stat_statements");
    assert!(Flavor::CurrentThread.runtime().block_on(backend(&server.url()).init()).expect("the server answers"));
    server
}

/// Returns the number of statements since the count was reset.
fn calls(server: &PostgresServer) -> f64 {
    let calls = "select coalesce(sum(calls), 0) from pg_stat_statements where query not like '%pg_stat_statements%'";
    server.sql(calls).parse().expect("a number")
}

pub(crate) fn run(effort: Effort) -> Vec<Table> {
    let server = counting_server();
    server.sql(CREATE);
    Flavor::ALL.map(|flavor| on(&flavor.runtime(), flavor.name(), &server, effort)).into()
}

fn on(runtime: &Runtime, name: &str, server: &PostgresServer, effort: Effort) -> Table {
    let (names, contestants): (Vec<_>, Vec<_>) = runtime.block_on(Contestant::all(server)).into_iter().unzip();
    let blocks = turns::take(names.len(), effort.rounds(ROUNDS), |next| runtime.block_on(contestants[next].block()));
    let mut table = Table::new(format!("PostgreSQL cycle, {name}"), &[&turns::COLUMNS[..], &["statements"]].concat());
    for (next, name) in names.iter().enumerate() {
        server.sql("select pg_stat_statements_reset()");
        drop(runtime.block_on(contestants[next].block()));
        let statements = format!("{:.2}", calls(server) / f64::from(CYCLES));
        table.row(*name, turns::figures(&blocks[next], &blocks[0]).into_iter().chain([statements]));
    }
    table
}
