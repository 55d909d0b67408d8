//! Measures PostgreSQL locks in one run: `cargo bench -p lock-postgres`. A word chooses a part:
//!
//! - `statements`: the statements of each operation, as the server counts them.
//! - `holders`: the cost of a lock with many holders.
//! - `waiters`: what 64 waiters cost an unrelated workload, woken by notifications and polling.
//! - `held`: the cost of 10,000 held locks.
//! - `growth`: the table after a million renewals.
//!
//! Contestants take turns in short blocks, so that the state of the machine affects all of them.

mod growth;
mod held;
mod holders;
mod statements;
mod waiters;

use std::{sync::Arc, time::Duration};

use lock_core::{
    LockName, Locker, Mode,
    backend::{AcquireOutcome, AcquireRequest, Backend, Lease, LeaseId, Release},
};
use lock_postgres::{PostgresBackend, PostgresConfig};
use test_support::postgres::PostgresServer;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls};

/// The lease of all contestants.
const TTL: Duration = Duration::from_secs(30);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` adds options.
    let part = arguments.iter().find(|argument| !argument.starts_with('-'));
    for (name, run) in [
        ("statements", statements::run as fn()),
        ("holders", holders::run),
        ("waiters", waiters::run),
        ("held", held::run),
        ("growth", growth::run),
    ] {
        if part.is_none_or(|part| part == name) {
            run();
        }
    }
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Starts a server with the table of locks.
fn server(settings: &[&str]) -> PostgresServer {
    let server = PostgresServer::with_settings(settings);
    assert!(current_thread().block_on(backend(&server).init()).expect("the server answers"));
    server
}

fn config(server: &PostgresServer) -> PostgresConfig {
    PostgresConfig::from_url(&server.url()).expect("a URL")
}

fn backend(server: &PostgresServer) -> PostgresBackend {
    PostgresBackend::new(config(server)).expect("nothing contradicts")
}

fn locker(config: PostgresConfig) -> Locker {
    let backend = PostgresBackend::new(config).expect("nothing contradicts");
    Locker::builder(Arc::new(backend)).ttl(TTL).build().expect("defaults")
}

/// Opens a connection of the kind that lock-postgres uses.
async fn connect(server: &PostgresServer) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.expect("the server answers");
    tokio::spawn(connection);
    client
}

fn request(name: &str, mode: Mode) -> AcquireRequest {
    let name = LockName::new(name).expect("a name");
    AcquireRequest::new(name, LeaseId::random(), "bench:1").with_mode(mode).with_ttl(TTL)
}

async fn acquire(backend: &PostgresBackend, name: &str, mode: Mode) -> Lease {
    let request = request(name, mode);
    match backend.acquire(&request).await.expect("the server answers") {
        AcquireOutcome::Granted(grant) => request.lease(grant.token),
        AcquireOutcome::Contended(holder) => panic!("{name} is held by {holder}"),
    }
}

async fn release(backend: &PostgresBackend, lease: &Lease) {
    let answer = backend.release(lease, Duration::ZERO).await.expect("the server answers");
    assert_eq!(answer, Release::Released);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
