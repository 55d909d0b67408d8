//! A connection that breaks or is silent, and rows and tables that another transaction has locked.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use lock_core::{
    ErrorKind, LossReason,
    backend::{AcquireOutcome, Admin, Backend, LeaseId, Release, Renewal},
};
use lock_postgres::PostgresBackend;
use test_support::{
    Direction::Requests,
    Proxy,
    undriven::{driven, others_connect, undriven},
    until,
};

use crate::fixture::{self, Fixture, LONG, at, backend, client, granted, name, reader, released, request};

#[tokio::test]
async fn a_cut_connection_is_replaced_by_the_next_request() {
    let fixture = Fixture::plain().await;
    let (lease, _) = granted(&fixture.through, &request("a", LONG)).await;
    for _ in 0..5 {
        let before = fixture.proxy.connections();
        fixture.proxy.cut();
        // The client may notice the cut only at its next request, whose reply is then lost.
        let renewed = async || matches!(fixture.through.renew(&lease).await, Ok(Renewal::Renewed));
        until("the renewal on a new connection", renewed).await;
        assert_eq!(fixture.proxy.connections(), before + 1);
    }
}

#[tokio::test]
async fn a_silent_connection_is_replaced_despite_impatient_callers() {
    let fixture = Fixture::plain().await;
    let (lease, _) = granted(&fixture.through, &request("a", LONG)).await;
    let before = fixture.proxy.connections();
    // A cut without an error, as by a firewall that has dropped the state of the connection.
    fixture.proxy.hold(Requests);
    let patience = Duration::from_millis(50);
    until("a second connection", async || {
        let _ = tokio::time::timeout(patience, fixture.through.renew(&lease)).await;
        fixture.proxy.connections() > before
    })
    .await;
    fixture.proxy.heal();
    until("the renewal", async || matches!(fixture.through.renew(&lease).await, Ok(Renewal::Renewed))).await;
}

#[tokio::test]
async fn requests_that_begin_together_share_one_connection() {
    let server = fixture::server();
    let proxy = Proxy::start(server.addr()).await;
    let (backend, probe) = (client(proxy.addr()), name("x"));
    let answers = join_all((0..50).map(|_| backend.inspect(&probe))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(proxy.connections(), 1);
}

/// A client that does not wait long for another one of its requests.
fn impatient(addr: SocketAddr) -> PostgresBackend {
    let short = Duration::from_millis(300);
    backend(at(addr).connect_timeout(short).timeout(short))
}

#[tokio::test]
async fn a_connecting_request_that_is_not_driven_stops_no_other() {
    let server = fixture::server();
    others_connect(&impatient(server.addr())).await;
}

#[tokio::test]
async fn a_waiter_that_is_not_driven_stops_no_other() {
    let server = fixture::server();
    let backend = impatient(server.addr());
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    let name = name("job");
    // It does not know yet whether notifications arrive.
    let _stuck = undriven(backend.watch(&name));
    let mut watch = driven(backend.watch(&name)).await.unwrap().unwrap();
    released(&backend, &lease).await;
    driven(watch.changed()).await;
}

#[tokio::test]
async fn a_crashed_server_is_unavailable_and_keeps_its_locks() {
    let mut server = fixture::server();
    let backend = client(server.addr());
    let (lease, _) = granted(&backend, &request("a", LONG)).await;
    server.crash();
    until("the crash to be noticed", async || backend.renew(&lease).await.is_err()).await;
    let error = backend.acquire(&request("b", LONG)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && !error.is_ambiguous() && error.is_retryable(), "{error:?}");
    server.restart();
    until("the renewal", async || matches!(backend.renew(&lease).await, Ok(Renewal::Renewed))).await;
}

#[tokio::test]
async fn a_terminated_backend_process_is_an_ambiguous_error_or_none() {
    let server = fixture::server();
    let backend = client(server.addr());
    let (lease, _) = granted(&backend, &request("a", LONG)).await;
    for _ in 0..3 {
        server.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'onelock'");
        until("the renewal", async || match backend.renew(&lease).await {
            Ok(renewal) => {
                assert_eq!(renewal, Renewal::Renewed);
                true
            }
            Err(error) => {
                assert!(error.is_ambiguous() && error.is_retryable(), "{error:?}");
                false
            }
        })
        .await;
    }
}

#[tokio::test]
// verifies: lost-reply
async fn an_unknown_error_leaves_open_whether_it_was_done() {
    let server = fixture::server();
    let backend = client(server.addr());
    let (lease, _) = granted(&backend, &request("a", LONG)).await;
    // Codes of poolers, of servers like PostgreSQL, and of none at all.
    for (code, is_retryable) in [("XX000", true), ("58000", true), ("40003", true), ("ZZ999", false)] {
        server.sql(&format!(
            "create or replace function fails() returns trigger language plpgsql as
                $$ begin raise exception 'the server is lost' using errcode = '{code}'; end $$;
            create or replace trigger fails before insert or update on onelock for each row execute function fails()"
        ));
        let acquired = backend.acquire(&request("b", LONG)).await.unwrap_err();
        let renewed = backend.renew(&lease).await.unwrap_err();
        let released = backend.release(&lease, Duration::ZERO).await.unwrap_err();
        for error in [acquired, renewed, released] {
            assert_eq!((error.is_ambiguous(), error.is_retryable()), (true, is_retryable), "{error:?}");
        }
    }
    server.sql("drop trigger fails on onelock");
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
}

/// A transaction of psql that stays open until the returned value is dropped.
struct OpenTransaction(std::process::Child);

impl OpenTransaction {
    fn begin(fixture: &Fixture, sql: &str) -> Self {
        use std::io::Write as _;

        let args = ["-X", "-q", "-h", "127.0.0.1", "-U", "onelock", "-d", "postgres", "-p"];
        let psql = std::process::Command::new("psql")
            .args(args)
            .arg(fixture.server.port().to_string())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        writeln!(psql.stdin.as_ref().unwrap(), "begin; {sql};").unwrap();
        Self(psql)
    }
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_locked_row_delays_other_renewals_for_a_bounded_time() {
    let fixture = Fixture::plain().await;
    let (blocked, _) = granted(&fixture.through, &request("blocked", LONG)).await;
    let (other, _) = granted(&fixture.through, &request("other", LONG)).await;
    let transaction = OpenTransaction::begin(&fixture, "select 1 from onelock where name = 'blocked' for update");
    let open = "select count(*) from pg_stat_activity where state = 'idle in transaction'";
    until("the transaction to be open", async || fixture.server.sql(open) == "1").await;
    let (first, second) = tokio::join!(fixture.through.renew(&blocked), fixture.through.renew(&other));
    let error = first.unwrap_err();
    assert!(error.to_string().contains("another transaction"), "{error}");
    assert!(error.is_retryable() && !error.is_ambiguous(), "{error:?}");
    assert_eq!(second.unwrap(), Renewal::Renewed);
    let error = fixture.through.release(&blocked, Duration::ZERO).await.unwrap_err();
    assert!(!error.is_ambiguous(), "{error:?}");
    drop(transaction);
    until("the renewal", async || matches!(fixture.through.renew(&blocked).await, Ok(Renewal::Renewed))).await;
}

#[tokio::test]
// verifies: hung-renewal
async fn a_silent_server_ends_the_guard_and_tokens_rise() {
    let fixture = Fixture::plain().await;
    let locker = fixture::locker(fixture.through.clone(), Duration::from_secs(2));
    let guard = locker.lock("a").acquire().await.unwrap();
    let token = guard.token().unwrap();
    fixture.proxy.hold(Requests);
    let lost = guard.lost().await;
    assert!(matches!(lost.reason, LossReason::Unreachable { .. }), "{lost}");
    let next = fixture::locker(fixture.direct.clone(), LONG).lock("a").acquire().await.unwrap();
    assert!(next.token().unwrap() > token);
    fixture.proxy.heal();
}

#[tokio::test]
async fn serializable_transactions_turn_races_into_retryable_errors() {
    let server = fixture::server();
    server.sql("alter role onelock set default_transaction_isolation = 'serializable'");
    let clients: Vec<_> = (0..8).map(|_| client(server.addr())).collect();
    for round in 0..20 {
        let requests: Vec<_> = clients.iter().map(|_| request(&format!("race-{}", round % 4), LONG)).collect();
        let attempts = join_all(clients.iter().zip(&requests).map(|(client, request)| client.acquire(request))).await;
        let mut winner = None;
        for ((attempt, request), client) in attempts.into_iter().zip(&requests).zip(&clients) {
            match attempt {
                Ok(AcquireOutcome::Granted(grant)) => {
                    assert!(winner.replace((client, request.lease(grant.token))).is_none(), "two winners");
                }
                Ok(AcquireOutcome::Contended(_)) => {}
                Err(error) => assert!(error.is_retryable() && !error.is_ambiguous(), "{error:?}"),
            }
        }
        if let Some((client, lease)) = winner {
            until("the release", async || client.release(&lease, Duration::ZERO).await.is_ok()).await;
        }
    }
}

#[tokio::test]
async fn the_second_host_is_used_if_the_first_is_silent() {
    let server = fixture::server();
    let silent = Proxy::start(server.addr()).await;
    silent.hold(Requests);
    let hosts = fixture::in_test_database(
        lock_postgres::ServerConfig::new()
            .host("127.0.0.1", silent.addr().port())
            .host("127.0.0.1", test_support::free_port())
            .host("127.0.0.1", server.port()),
    );
    let config = lock_postgres::PostgresConfig::new(hosts).connect_timeout(Duration::from_millis(200));
    granted(&backend(config), &request("a", LONG)).await;
    // A caller that gives up each time before the first attempt ends.
    let impatient = backend(at(silent.addr()).connect_timeout(Duration::from_secs(600)));
    let told = async || {
        matches!(tokio::time::timeout(Duration::from_millis(60), impatient.inspect(&name("a"))).await, Ok(Err(_)))
    };
    until("a caller to be told at once", told).await;
}

#[tokio::test]
// verifies: P12
async fn a_locked_row_delays_requests_for_its_parts_briefly() {
    let fixture = Fixture::plain().await;
    let (blocked, _) = granted(&fixture.through, &reader("blocked")).await;
    let transaction = OpenTransaction::begin(&fixture, "select 1 from onelock where name = 'blocked' for update");
    let open = "select count(*) from pg_stat_activity where state = 'idle in transaction'";
    until("the transaction to be open", async || fixture.server.sql(open) == "1").await;
    let joining = fixture.through.acquire(&reader("blocked")).await.unwrap_err();
    let renewing = fixture.through.renew(&blocked).await.unwrap_err();
    let releasing = fixture.through.release(&blocked, Duration::ZERO).await.unwrap_err();
    for error in [joining, renewing, releasing] {
        assert!(error.to_string().contains("another transaction"), "{error}");
        assert!(error.is_retryable() && !error.is_ambiguous(), "{error:?}");
    }
    drop(transaction);
    until("the renewal", async || matches!(fixture.through.renew(&blocked).await, Ok(Renewal::Renewed))).await;
}

/// Waits until so many requests wait for the row.
async fn waiting(fixture: &Fixture, requests: usize) {
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'";
    until("the requests to wait for the row", async || fixture.server.sql(waiting) == requests.to_string()).await;
}

#[tokio::test]
// verifies: late-request, P12
async fn a_release_ends_a_grant_that_waited_beside_it() {
    let fixture = Fixture::plain().await;
    for wanted in [request("late", LONG), reader("late-part")] {
        for acquires_first in [true, false] {
            // A free lock with a row.
            let before = wanted.clone().with_id(LeaseId::random());
            let (lease, _) = granted(&fixture.direct, &before).await;
            assert_eq!(fixture.direct.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
            let late = wanted.clone().with_id(LeaseId::random());
            let transaction = OpenTransaction::begin(&fixture, "select 1 from onelock for share");
            let open = "select count(*) from pg_stat_activity where state = 'idle in transaction'";
            until("the transaction to be open", async || fixture.server.sql(open) == "1").await;
            let (one, other) = (client(fixture.server.addr()), client(fixture.server.addr()));
            let (acquire, release) = (
                async { one.acquire(&late).await.is_ok_and(|answer| matches!(answer, AcquireOutcome::Granted(_))) },
                async { other.release(&late.lease(None), Duration::ZERO).await.unwrap() },
            );
            // The second request begins when the first waits.
            let held_up = async |requests| waiting(&fixture, requests).await;
            let (granted_late, released) = if acquires_first {
                let end = async {
                    held_up(1).await;
                    release.await
                };
                let free = async {
                    held_up(2).await;
                    drop(transaction);
                };
                let (granted, released, ()) = tokio::join!(acquire, end, free);
                (granted, released)
            } else {
                let begin = async {
                    held_up(1).await;
                    acquire.await
                };
                let free = async {
                    held_up(2).await;
                    drop(transaction);
                };
                let (released, granted, ()) = tokio::join!(release, begin, free);
                (granted, released)
            };
            assert_eq!(granted_late, acquires_first, "{late:?}");
            assert_eq!(released == Release::Released, acquires_first, "{late:?}");
            let (lease, _) = granted(&fixture.direct, &request(late.name.as_str(), LONG)).await;
            assert_eq!(fixture.direct.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
        }
    }
}
