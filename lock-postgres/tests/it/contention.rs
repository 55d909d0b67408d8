//! Races for one lock, directly and through PgBouncer.

use std::time::Duration;

use futures_util::future::join_all;
use lock_core::backend::{AcquireOutcome, Backend, Release};
use lock_postgres::PostgresBackend;
use test_support::pgbouncer::PgBouncer;

use crate::fixture::{self, LONG, client, request};

/// Runs 150 races of 8 clients for one lock. Each has one winner, and tokens rise.
async fn race(clients: &[PostgresBackend]) {
    let mut last = None;
    for round in 0..150 {
        let requests: Vec<_> = clients.iter().map(|_| request("race", LONG)).collect();
        let attempts = join_all(clients.iter().zip(&requests).map(|(client, request)| client.acquire(request))).await;
        let mut winners = Vec::new();
        for ((attempt, request), client) in attempts.into_iter().zip(&requests).zip(clients) {
            if let AcquireOutcome::Granted(grant) = attempt.unwrap() {
                assert_eq!(grant.crashed, None, "the previous holder released");
                winners.push((client, request.lease(grant.token)));
            }
        }
        let [(client, lease)] = &winners[..] else { panic!("{} winners in round {round}", winners.len()) };
        assert!(lease.token > last, "{:?} after {last:?}", lease.token);
        last = lease.token;
        assert_eq!(client.release(lease, Duration::ZERO).await.unwrap(), Release::Released);
    }
}

#[tokio::test(flavor = "multi_thread")]
// verifies: contention
async fn each_of_150_races_has_one_winner() {
    let server = fixture::server();
    let clients: Vec<_> = (0..8).map(|_| client(server.addr())).collect();
    race(&clients).await;
}

#[tokio::test(flavor = "multi_thread")]
// verifies: contention
async fn each_of_150_races_through_pgbouncer_has_one_winner() {
    let server = fixture::server();
    let pooler = PgBouncer::start(&server);
    let clients: Vec<_> = (0..8).map(|_| client(pooler.addr())).collect();
    race(&clients).await;
}
