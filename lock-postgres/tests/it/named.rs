//! Named statements: only where the connection leads to one session of the server, and only after
//! some uses.

use std::time::Duration;

use lock_core::{
    LossReason,
    backend::{AcquireOutcome, Backend, Release, Renewal},
};
use lock_postgres::{PostgresBackend, PostgresConfig, ServerConfig, SslMode};
use test_support::{
    pgbouncer::PgBouncer,
    postgres::PostgresServer,
    tls::Certificates,
    undriven::{driven, undriven},
};

use crate::fixture::{LONG, at, backend, create_table, granted, in_test_database, reader, request};

/// Counts how often the server plans.
const COUNTING: &[&str] = &["shared_preload_libraries=pg_stat_statements", "pg_stat_statements.track_planning=on"];

const CYCLES: u64 = 30;

fn counting(server: &PostgresServer) {
    server.sql("create extension pg_stat_statements");
    create_table(server);
}

async fn cycles(backend: &PostgresBackend) {
    for _ in 0..CYCLES {
        for request in [request("job", LONG), reader("shared")] {
            let (lease, _) = granted(backend, &request).await;
            assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
            assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
        }
    }
}

/// Runs cycles of 6 statements, and returns how often each was planned.
async fn plans(server: &PostgresServer, config: PostgresConfig) -> u64 {
    server.sql("select pg_stat_statements_reset()");
    cycles(&backend(config)).await;
    let counted = |what: &str| -> u64 {
        let sql = format!("select sum({what}) from pg_stat_statements where query like '%onelock%name%'");
        server.sql(&sql).parse().unwrap()
    };
    assert_eq!(counted("calls"), 6 * CYCLES, "statements");
    counted("plans") / 6
}

#[tokio::test]
async fn statements_of_a_direct_connection_are_planned_once() {
    let server = PostgresServer::with_settings(COUNTING);
    counting(&server);
    assert!(plans(&server, at(server.addr())).await < 8, "TCP");
    let socket = ServerConfig::new().host(server.socket_directory().display().to_string(), server.port());
    assert!(plans(&server, PostgresConfig::new(in_test_database(socket))).await < 8, "a Unix socket");
    assert_eq!(plans(&server, at(server.addr()).named_statements(false)).await, CYCLES, "switched off");
    let pooler = PgBouncer::start(&server);
    assert_eq!(plans(&server, at(pooler.addr())).await, CYCLES, "a pooler");
}

#[tokio::test]
async fn statements_of_a_connection_with_tls_are_planned_once() {
    let certificates = Certificates::make();
    let server = PostgresServer::with_tls_and_settings(&certificates, COUNTING);
    counting(&server);
    let server_config = || in_test_database(ServerConfig::new().host("localhost", server.port()));
    for mode in [SslMode::Prefer, SslMode::Require, SslMode::VerifyFull] {
        let config = PostgresConfig::new(server_config().ssl_mode(mode).root_cert(certificates.ca()));
        assert!(plans(&server, config).await < 8, "{mode:?}");
    }
}

#[tokio::test]
async fn a_changed_or_new_table_is_used_by_the_next_request() {
    let server = PostgresServer::start();
    create_table(&server);
    let backend = backend(at(server.addr()));
    cycles(&backend).await;
    server.sql("alter table onelock alter mode type varchar(20)");
    cycles(&backend).await;
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    server.sql("drop table onelock");
    create_table(&server);
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::RecordGone));
    cycles(&backend).await;
}

#[tokio::test]
async fn kept_plans_use_the_index_when_the_table_has_grown() {
    let server = PostgresServer::start();
    create_table(&server);
    // A vacuumed table of one page invites a plan that reads it all.
    server.sql("insert into onelock (name, token, seq, expires_at) values ('other', 1, 1, 'epoch')");
    server.sql("vacuum analyze onelock");
    let backend = backend(at(server.addr()));
    cycles(&backend).await;
    // The counts of the server are late, so each is of a connection that has ended.
    let scans = "select seq_scan from pg_stat_user_tables where relname = 'onelock'";
    drop(backend);
    test_support::until("the counts", async || {
        server.sql("select n_tup_upd >= 120 from pg_stat_user_tables where relname = 'onelock'") == "t"
    })
    .await;
    let scans: u64 = server.sql(scans).parse().unwrap();
    assert!(scans < 6 * CYCLES / 2, "{scans} scans of the whole table");
}

#[tokio::test]
async fn a_naming_request_that_is_not_driven_stops_no_other() {
    let server = PostgresServer::start();
    create_table(&server);
    let backend = backend(at(server.addr()).timeout(LONG));
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    // The next use gives a name to the statement, and this first name needs more requests.
    for _ in 0..5 {
        assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    }
    let stuck = undriven(backend.renew(&lease));
    assert_eq!(driven(backend.renew(&lease)).await.unwrap(), Renewal::Renewed);
    assert_eq!(stuck.await.unwrap(), Renewal::Renewed);
    for i in 1..5 {
        granted(&backend, &request(&format!("job-{i}"), LONG)).await;
    }
    let (sixth, seventh) = (request("sixth", LONG), request("seventh", LONG));
    let stuck = undriven(backend.acquire(&sixth));
    driven(granted(&backend, &seventh)).await;
    assert!(matches!(stuck.await.unwrap(), AcquireOutcome::Granted(_)));
}
