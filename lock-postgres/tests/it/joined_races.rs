//! Races for shared locks and permits.

use std::time::Duration;

use futures_util::future::join_all;
use lock_core::backend::{AcquireOutcome, Backend, Release, Renewal};
use test_support::pgbouncer::PgBouncer;

use crate::fixture::{client, granted, permit, reader, server};

#[tokio::test(flavor = "multi_thread")]
// verifies: contention, P12
async fn races_for_permits_give_away_each_place_once() {
    let server = server();
    let pooler = PgBouncer::start(&server);
    for addr in [server.addr(), pooler.addr()] {
        let clients: Vec<_> = (0..8).map(|_| client(addr)).collect();
        let mut last = None;
        for round in 0..100 {
            // Every second round creates the row.
            let name = format!("race-{addr}-{}", round / 2);
            let requests: Vec<_> = clients.iter().map(|_| permit(&name, 3)).collect();
            let attempts = join_all(clients.iter().zip(&requests).map(|(client, request)| client.acquire(request)));
            let mut winners = Vec::new();
            for ((attempt, request), client) in attempts.await.into_iter().zip(&requests).zip(&clients) {
                if let AcquireOutcome::Granted(grant) = attempt.unwrap() {
                    assert_eq!(grant.crashed, None);
                    winners.push((client, request.lease(grant.token)));
                }
            }
            assert_eq!(winners.len(), 3, "in round {round}");
            let mut tokens: Vec<_> = winners.iter().map(|(_, lease)| lease.token).collect();
            tokens.sort();
            assert!(tokens.windows(2).all(|pair| pair[0] < pair[1]) && tokens[0] > last.filter(|_| round % 2 == 1));
            last = tokens[2];
            let releases = winners.iter().map(|(client, lease)| client.release(lease, Duration::ZERO));
            assert!(join_all(releases).await.into_iter().all(|released| released.unwrap() == Release::Released));
        }
    }
}

/// Refuses a row with more than two parts that have not ended.
const TWO_PARTS: &str = "create function two_parts() returns trigger language plpgsql as $$ begin
        if (select count(*) from unnest(new.part_ends) e where e > clock_timestamp()) > 2 then
            raise exception 'three holders';
        end if;
        return new;
    end $$;
    create trigger two_parts before insert or update on onelock for each row execute function two_parts()";

#[tokio::test(flavor = "multi_thread")]
// verifies: P1, P12
async fn renewals_and_contenders_never_exceed_the_permits() {
    let server = server();
    server.sql(TWO_PARTS);
    let clients: Vec<_> = (0..6).map(|_| client(server.addr())).collect();
    let contend = clients.iter().map(async |client| {
        for _ in 0..150 {
            // Renewals and ends meet, because the ttl is about as long as a request.
            let request = permit("job", 2).with_ttl(Duration::from_millis(5));
            if let AcquireOutcome::Granted(grant) = client.acquire(&request).await.unwrap() {
                for _ in 0..3 {
                    let _ = client.renew(&request.lease(grant.token)).await.unwrap();
                }
            }
        }
    });
    join_all(contend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_common_names_do_not_deadlock() {
    let server = server();
    let clients: Vec<_> = (0..4).map(|_| client(server.addr())).collect();
    let batches = clients.iter().enumerate().map(async |(number, client)| {
        let mut leases = Vec::new();
        for n in 0..20 {
            leases.push(granted(client, &reader(&format!("{n}"))).await.0);
        }
        // Each process has its own order.
        leases.rotate_left(number * 5);
        if number % 2 == 1 {
            leases.reverse();
        }
        for _ in 0..50 {
            for renewal in client.renew_many(&leases).await {
                assert_eq!(renewal.unwrap(), Renewal::Renewed);
            }
        }
    });
    join_all(batches).await;
}
