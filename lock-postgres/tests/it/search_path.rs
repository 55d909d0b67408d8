//! A table whose name has no schema: the search path of the user decides, not that of a session.

use std::net::SocketAddr;

use lock_core::{
    ErrorKind,
    backend::{AcquireOutcome, Backend, Level},
};
use lock_postgres::Schema;
use test_support::{
    pgbouncer::PgBouncer,
    postgres::PostgresServer,
    undriven::{driven, undriven},
};

use crate::fixture::{LONG, at, backend, client, granted, refused, released, request, server};

/// As many sessions as the pooler has.
const SESSIONS: usize = 4;

/// Leaves this search path in all sessions of a pooler, as any client of it may. Other statements
/// may follow the path.
async fn leave(pooler: SocketAddr, path: &str) {
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        let config = format!("host=127.0.0.1 port={} user=onelock dbname=postgres", pooler.port());
        let (client, connection) = tokio_postgres::connect(&config, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        // The open transaction keeps its session from the next client.
        client.batch_execute(&format!("begin; set search_path = {path}")).await.unwrap();
        clients.push(client);
    }
    for client in clients {
        client.batch_execute("commit").await.unwrap();
    }
}

#[tokio::test]
// verifies: P1
async fn search_paths_left_in_pooled_sessions_lead_to_no_other_table() {
    let server = server();
    server.sql("create schema other");
    for schema in [Schema::Native, Schema::ShedLock] {
        backend(at(server.addr()).schema(schema)).init().await.unwrap();
        let pooler = PgBouncer::start(&server);
        let direct = backend(at(server.addr()).schema(schema));
        let temporary = "''; create temp table if not exists pg_settings as \
                         select 'search_path'::text as name, 'other'::text as reset_val; \
                         create temp table if not exists pg_class as select 'onelock'::name as relname";
        for path in ["''", "other", temporary] {
            leave(pooler.addr(), path).await;
            let through = backend(at(pooler.addr()).schema(schema));
            assert!(!through.init().await.unwrap(), "{schema:?} {path}: the table is there");
            for i in 0..2 * SESSIONS {
                let job = request(&format!("job-{i}"), LONG);
                let (lease, _) = granted(&through, &job).await;
                refused(&direct, &request(&format!("job-{i}"), LONG)).await;
                released(&through, &lease).await;
            }
            assert!(through.diagnose().await.iter().all(|finding| finding.level != Level::Unfit), "{schema:?} {path}");
        }
    }
    assert_eq!(server.sql("select count(*) from pg_tables where schemaname = 'other'"), "0");
}

#[tokio::test]
async fn the_table_is_that_of_the_users_search_path() {
    let server = PostgresServer::start();
    server.sql("create schema app; alter role onelock set search_path = absent, app, public");
    let pooler = PgBouncer::start(&server);
    leave(pooler.addr(), "public").await;
    let through = client(pooler.addr());
    let error = through.acquire(&request("job", LONG)).await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::StoreNotReady, false), "{error:?}");
    assert!(through.init().await.unwrap());
    assert_eq!(server.sql("select schemaname from pg_tables where tablename = 'onelock'"), "app");
    // The client that has failed finds it too.
    granted(&through, &request("job", LONG)).await;
    refused(&backend(at(server.addr()).table("app.onelock")), &request("job", LONG)).await;
    let found = through.diagnose().await.into_iter().find(|finding| finding.subject == "table").unwrap();
    assert!(found.to_string().contains(r#""app"."onelock""#), "{found}");
    // A schema that comes before it has no table.
    server.sql("create schema absent");
    let next = client(server.addr());
    refused(&next, &request("job", LONG)).await;
    // A user without a schema has to name one.
    server.sql("alter role onelock set search_path = ''");
    let lost = client(server.addr());
    let error = lost.acquire(&request("job", LONG)).await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::StoreNotReady, false), "{error:?}");
    assert!(error.to_string().contains("SCHEMA.TABLE"), "{error}");
}

#[tokio::test]
async fn a_first_request_that_is_not_driven_stops_no_other() {
    let server = server();
    for schema in [Schema::Native, Schema::ShedLock] {
        let backend = backend(at(server.addr()).schema(schema).timeout(LONG));
        // It connects, and leaves the schema of the table unknown.
        backend.init().await.unwrap();
        let (first, second) = (request("first", LONG), request("second", LONG));
        let stuck = undriven(backend.acquire(&first));
        let (lease, _) = driven(granted(&backend, &second)).await;
        released(&backend, &lease).await;
        assert!(matches!(stuck.await.unwrap(), AcquireOutcome::Granted(_)), "{schema:?}");
    }
}
