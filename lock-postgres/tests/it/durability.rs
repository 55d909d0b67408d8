//! Servers that crash, and standbys that take over.

use std::time::Duration;

use lock_core::{
    ErrorKind,
    backend::{AcquireOutcome, Admin, Backend, Level, Release, Renewal},
};
use lock_postgres::{PostgresConfig, Replicas, ServerConfig};
use test_support::{postgres::PostgresServer, until};

use crate::fixture::{self, LONG, at, backend, client, granted, in_test_database, name, refused, request, with_table};

/// Writes of others are lost in a crash, so that the test shows something.
const LAZY: &[&str] = &["synchronous_commit=off", "wal_writer_delay=10s", "bgwriter_lru_maxpages=0"];

#[tokio::test]
// verifies: lost-record
async fn a_lock_survives_a_crash_without_synchronous_commit() {
    let mut server = with_table(PostgresServer::with_settings(LAZY));
    server.sql("create table lazy (x int)");
    server.sql("checkpoint");
    let backend = client(server.addr());
    let (renewed, _) = granted(&backend, &request("renewed", Duration::from_secs(60))).await;
    let (released, _) = granted(&backend, &request("released", LONG)).await;
    let mut longer = renewed.clone();
    longer.ttl = LONG;
    assert_eq!(backend.renew(&longer).await.unwrap(), Renewal::Renewed);
    assert_eq!(backend.release(&released, Duration::ZERO).await.unwrap(), Release::Released);
    let (held, _) = granted(&backend, &request("held", LONG)).await;
    server.sql("insert into lazy values (1)");
    server.crash();
    server.restart();
    assert_eq!(server.sql("select count(*) from lazy"), "0", "other writes were lost");
    assert!(refused(&backend_again(&server), &request("held", LONG)).await.token == held.token);
    let left = client(server.addr()).inspect(&name("renewed")).await.unwrap().unwrap().expires_in.unwrap();
    assert!(left > Duration::from_secs(120), "the renewal was lost: {left:?}");
    assert_eq!(client(server.addr()).inspect(&name("released")).await.unwrap(), None);
}

fn backend_again(server: &PostgresServer) -> lock_postgres::PostgresBackend {
    client(server.addr())
}

#[tokio::test]
async fn a_standby_is_a_configuration_error_and_never_held() {
    let primary = fixture::server();
    let (lease, _) = granted(&client(primary.addr()), &request("job", LONG)).await;
    let standby = primary.standby("s1");
    let there = async || standby.sql("select count(*) from onelock") == "1";
    until("the row to arrive", there).await;
    let on_standby = client(standby.addr());
    for result in [
        on_standby.acquire(&request("job", LONG)).await.map(|_| ()),
        on_standby.acquire(&request("free", LONG)).await.map(|_| ()),
        on_standby.renew(&lease).await.map(|_| ()),
        on_standby.release(&lease, Duration::ZERO).await.map(|_| ()),
    ] {
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Config, false), "{error:?}");
        assert!(error.to_string().contains("standby"), "{error}");
    }
    // A question is answered there.
    assert_eq!(on_standby.inspect(&lease.name).await.unwrap().unwrap().token, lease.token);
    assert!(on_standby.diagnose().await.iter().any(|finding| finding.level == Level::Unfit));
    // Of several servers, the one that accepts writes is used, in any order.
    for ports in [[standby.port(), primary.port()], [primary.port(), standby.port()]] {
        let hosts = ports.into_iter().fold(ServerConfig::new(), |hosts, port| hosts.host("127.0.0.1", port));
        let both = backend(PostgresConfig::new(in_test_database(hosts)));
        refused(&both, &request("job", LONG)).await;
    }
    let only = ServerConfig::new().host("127.0.0.1", standby.port()).host("127.0.0.1", standby.port());
    let error = backend(PostgresConfig::new(in_test_database(only))).acquire(&request("job", LONG)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.is_retryable() && !error.is_ambiguous(), "{error:?}");
}

/// Freezes the replication of `primary`, so that a standby lacks what comes now.
fn stop_replication(standby: &PostgresServer) {
    standby.sql("alter system set primary_conninfo = ''");
    standby.sql("select pg_reload_conf()");
}

#[tokio::test]
async fn an_asynchronous_failover_may_lose_a_lock() {
    let mut primary = fixture::server();
    let standby = primary.standby("s1");
    let before = client(primary.addr());
    let findings = before.diagnose().await;
    let found = findings.iter().find(|finding| finding.subject == "standbys").unwrap();
    assert_eq!(found.level, Level::Warning, "{found}");
    let (early, _) = granted(&before, &request("early", LONG)).await;
    until("the lock to arrive", async || standby.sql("select count(*) from onelock") == "1").await;
    stop_replication(&standby);
    until("the standby to stop", async || primary.sql("select count(*) from pg_stat_replication") == "0").await;
    let (lost, _) = granted(&before, &request("lost", LONG)).await;
    primary.crash();
    standby.promote();
    let after = client(standby.addr());
    assert_eq!(refused(&after, &request("early", LONG)).await.token, early.token);
    // What the page says: the new primary does not know of it, and tokens rise by the clock.
    let (again, _) = granted(&after, &request("lost", LONG)).await;
    assert!(again.token > lost.token);
}

#[tokio::test]
async fn a_lock_with_replicas_sync_survives_the_failover() {
    let mut primary = fixture::server();
    let sync = |server: &PostgresServer| backend(at(server.addr()).replicas(Replicas::Sync));
    let error = sync(&primary).acquire(&request("job", LONG)).await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::StoreNotReady, false), "{error:?}");
    assert_eq!(client(primary.addr()).inspect(&name("job")).await.unwrap(), None, "nothing was granted");
    assert!(sync(&primary).diagnose().await.iter().any(|finding| finding.level == Level::Unfit));
    let standby = primary.standby("s1");
    primary.sql("alter system set synchronous_standby_names = 's1'");
    primary.sql("select pg_reload_conf()");
    let is_sync = "select count(*) from pg_stat_replication where sync_state = 'sync'";
    until("the standby to be synchronous", async || primary.sql(is_sync) == "1").await;
    let before = sync(&primary);
    let mut leases = Vec::new();
    for i in 0..20 {
        leases.push(granted(&before, &request(&format!("job-{i}"), LONG)).await.0);
    }
    assert!(before.renew_many(&leases).await.into_iter().all(|renewal| renewal.unwrap() == Renewal::Renewed));
    primary.crash();
    standby.promote();
    let after = client(standby.addr());
    for lease in &leases {
        assert_eq!(refused(&after, &request(lease.name.as_str(), LONG)).await.token, lease.token);
    }
}

#[tokio::test]
async fn without_its_standby_replicas_sync_grants_nothing() {
    let primary = fixture::server();
    let mut standby = primary.standby("s1");
    primary.sql("alter system set synchronous_standby_names = 's1'");
    // The warning of a cancelled wait comes nevertheless.
    primary.sql("alter system set client_min_messages = 'error'");
    primary.sql("select pg_reload_conf()");
    let is_sync = "select count(*) from pg_stat_replication where sync_state = 'sync'";
    until("the standby to be synchronous", async || primary.sql(is_sync) == "1").await;
    let config = at(primary.addr()).replicas(Replicas::Sync).timeout(Duration::from_millis(500));
    let client = backend(config.clone());
    let (lease, _) = granted(&client, &request("held", LONG)).await;
    standby.crash();
    let job = request("job", LONG);
    let error = client.acquire(&job).await.unwrap_err();
    assert!(error.is_ambiguous() && error.is_retryable(), "{error:?}");
    assert!(client.renew(&lease).await.unwrap_err().is_ambiguous());
    // The wait for the standby keeps a connection of the server, which must not add up.
    let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    for _ in 0..3 {
        let _ = client.acquire(&job).await;
    }
    until("abandoned waits to end", async || primary.sql(waiting).parse::<u32>().unwrap() <= 1).await;
    // An operator cancels the wait: the commit took effect here, but it does not count.
    let other = backend(config.timeout(Duration::from_secs(20)));
    let cancelled = request("cancelled", LONG);
    let cancel = async {
        // Again and again, because an earlier wait may be cancelled first.
        loop {
            primary.sql("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let attempt = tokio::select! {
        attempt = other.acquire(&cancelled) => attempt,
        () = cancel => unreachable!("it never ends"),
    };
    let error = attempt.unwrap_err();
    assert!(error.is_ambiguous() && error.to_string().contains("synchronous standby"), "{error:?}");
    standby.restart();
    until("the retry", async || matches!(client.acquire(&job).await, Ok(AcquireOutcome::Granted(_)))).await;
    let again = other.acquire(&cancelled).await.unwrap();
    assert!(matches!(again, AcquireOutcome::Granted(grant) if grant.already_ours));
}
