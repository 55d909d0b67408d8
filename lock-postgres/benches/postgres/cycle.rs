//! Measures acquire and release of an uncontended lock.

use std::time::{Duration, Instant};

use lock_core::{Locker, Mode, TryAcquire};
use lock_postgres::PostgresBackend;
use test_support::postgres::PostgresServer;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, Statement, types::Type};

use super::{acquire, backend, config, connect, current_thread, locker, median, micros, multi_thread, release, server};

const ROUNDS: usize = 20;
/// The number of cycles in a block.
const CYCLES: u32 = 50;

/// The least that a lock needs: who holds it, and until when.
const CREATE: &str = "create table raw (name bytea primary key, id uuid, expires_at timestamptz not null)
    with (fillfactor = 50); insert into raw values ('raw', null, 'epoch'), ('named', null, 'epoch')";
const ACQUIRE: &str = "update raw set id = $2::text::uuid, expires_at = clock_timestamp() + interval '30 seconds'
    where name = $1 and expires_at <= clock_timestamp() returning 1";
const RELEASE: &str = "update raw set id = null, expires_at = clock_timestamp()
    where name = $1 and id = $2::text::uuid returning 1";

enum Contestant {
    /// Two updates without a library, parsed each time.
    Raw(Client),
    /// The same as named statements.
    Named(Client, [Statement; 2]),
    Backend(PostgresBackend, &'static str, Mode),
    Locker(Locker),
}

impl Contestant {
    async fn all(server: &PostgresServer) -> Vec<(&'static str, Self)> {
        vec![
            ("two raw updates", Self::Raw(connect(server).await)),
            ("the same, named", Self::named(connect(server).await).await),
            ("lock-postgres, Backend", Self::Backend(backend(server), "exclusive", Mode::Exclusive)),
            ("the same, unnamed", Self::Backend(unnamed(server), "unnamed", Mode::Exclusive)),
            ("lock-postgres, Locker", Self::Locker(locker(config(server)))),
            ("lock-postgres, shared", Self::Backend(backend(server), "shared", Mode::Shared)),
        ]
    }

    async fn named(client: Client) -> Self {
        let prepared = async |sql| client.prepare_typed(sql, &[Type::BYTEA, Type::TEXT]).await.expect("an answer");
        let statements = [prepared(ACQUIRE).await, prepared(RELEASE).await];
        Self::Named(client, statements)
    }

    async fn cycle(&self) {
        match self {
            Self::Raw(client) => {
                let id = lock_core::backend::LeaseId::random().to_string();
                for sql in [ACQUIRE, RELEASE] {
                    let rows = client.query_typed(sql, &[(&b"raw".as_slice(), Type::BYTEA), (&id, Type::TEXT)]).await;
                    assert_eq!(rows.expect("the server answers").len(), 1);
                }
            }
            Self::Named(client, statements) => {
                let id = lock_core::backend::LeaseId::random().to_string();
                for statement in statements {
                    let rows = client.query(statement, &[&b"named".as_slice(), &id]).await;
                    assert_eq!(rows.expect("the server answers").len(), 1);
                }
            }
            Self::Backend(backend, name, mode) => {
                let lease = acquire(backend, name, *mode).await;
                release(backend, &lease).await;
            }
            Self::Locker(locker) => {
                let Ok(TryAcquire::Acquired(guard)) = locker.try_acquire("locker").await else { panic!("it is free") };
                let _ = guard.release().await.expect("it is held");
            }
        }
    }
}

fn unnamed(server: &PostgresServer) -> PostgresBackend {
    PostgresBackend::new(config(server).named_statements(false)).expect("nothing contradicts")
}

async fn block(contestant: &Contestant) -> Duration {
    let start = Instant::now();
    for _ in 0..CYCLES {
        contestant.cycle().await;
    }
    start.elapsed() / CYCLES
}

pub(crate) fn run() {
    let server = server(&[]);
    server.sql(CREATE);
    measure("one thread", &current_thread(), &server);
    measure("two threads", &multi_thread(), &server);
}

fn measure(how: &str, runtime: &Runtime, server: &PostgresServer) {
    runtime.block_on(async {
        let contestants = Contestant::all(server).await;
        let mut times: Vec<Vec<f64>> = contestants.iter().map(|_| Vec::new()).collect();
        for round in 0..=ROUNDS {
            for ((_, contestant), times) in contestants.iter().zip(&mut times) {
                let time = micros(block(contestant).await);
                // The first block warms up.
                if round > 0 {
                    times.push(time);
                }
            }
        }
        println!("\n{:<24} {:>8} {:>13}", format!("cycle, {how}"), "µs", "ratio to raw");
        for ((name, _), mine) in contestants.iter().zip(&times) {
            let ratios = mine.iter().zip(&times[0]).map(|(mine, raw)| mine / raw).collect();
            println!("{name:<24} {:>8.0} {:>13.2}", median(mine.clone()), median(ratios));
        }
    });
}
