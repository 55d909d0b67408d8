//! The table as others see it: readable rows, other rows and tables, rights, and the cost of each
//! operation.

use std::time::Duration;

use lock_core::{
    ErrorKind, LossReason,
    backend::{Admin, Backend, Break, Level, Release, Renewal},
};
use test_support::postgres::PostgresServer;

use crate::fixture::{LONG, at, backend, client, create_table, granted, hex, name, refused, request, server};

#[tokio::test]
async fn psql_sees_readable_rows() {
    let server = server();
    let mut job = request("nightly/\u{e9}tl", LONG);
    job.data = Some(b"{}".to_vec());
    let (lease, _) = granted(&client(server.addr()), &job).await;
    let row = server.sql(
        "select convert_from(name, 'UTF8'), owner, token, ttl, convert_from(data, 'UTF8'), expires_at > now() \
         from onelock",
    );
    assert_eq!(row, format!("nightly/\u{e9}tl|test|{}|00:10:00|{{}}|t", lease.token.unwrap()));
}

#[tokio::test]
async fn names_with_nul_and_slashes_are_distinct_locks() {
    let server = server();
    let backend = client(server.addr());
    let long = "x".repeat(1024);
    for text in ["a", "a\0", "a/b", "\0", "%", "_", "'; drop table onelock; --", &long] {
        let (lease, _) = granted(&backend, &request(text, LONG)).await;
        refused(&backend, &request(text, LONG)).await;
        assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    }
    assert_eq!(backend.list("a").await.unwrap().locks.len(), 3);
    assert_eq!(backend.list("").await.unwrap().locks.len(), 8);
}

#[tokio::test]
async fn an_owner_with_nul_is_recorded_without_it() {
    let server = server();
    let backend = client(server.addr());
    let mut job = request("job", LONG);
    job.owner = "a\0b".into();
    granted(&backend, &job).await;
    assert_eq!(refused(&backend, &request("job", LONG)).await.owner.as_deref(), Some("a\u{fffd}b"));
}

#[tokio::test]
// verifies: not-ours
async fn huge_values_of_others_stay_on_the_server() {
    let server = server();
    let backend = client(server.addr());
    granted(&backend, &request("job", LONG)).await;
    server.sql("update onelock set data = convert_to(repeat('x', 3000000), 'UTF8'), owner = repeat('y', 3000000)");
    let holder = refused(&backend, &request("job", LONG)).await;
    assert_eq!((holder.data, holder.owner.unwrap().len()), (None, 1024));
}

#[tokio::test]
async fn an_expired_lease_is_not_revived_by_a_renewal() {
    let server = server();
    let backend = client(server.addr());
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    server.sql("update onelock set expires_at = now() - interval '1 second'");
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::Expired));
    assert_eq!(backend.inspect(&lease.name).await.unwrap(), None);
}

#[tokio::test]
async fn a_version_of_a_deleted_row_breaks_no_new_holder() {
    let server = server();
    let backend = client(server.addr());
    granted(&backend, &request("job", LONG)).await;
    let seen = backend.inspect(&name("job")).await.unwrap().unwrap().version.unwrap();
    server.sql("delete from onelock");
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    let broken = backend.break_lock(&lease.name, &seen, "alice").await.unwrap();
    assert!(matches!(broken, Break::Changed(Some(_))), "{broken:?}");
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
}

#[tokio::test]
// verifies: not-ours
async fn other_tables_are_refused_and_left_alone() {
    let server = PostgresServer::start();
    server.sql("create table other (name text primary key, id int); insert into other values ('job', 1)");
    server.sql("create table part (name bytea primary key, id uuid)");
    server.sql("create view seen as select 1 as name");
    for table in ["other", "part", "seen", "missing", "nowhere.locks"] {
        let backend = backend(at(server.addr()).table(table));
        let error = backend.acquire(&request("job", LONG)).await.unwrap_err();
        assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::StoreNotReady, false), "{table}: {error:?}");
        assert_eq!(backend.check().await.unwrap_err().kind(), ErrorKind::StoreNotReady, "{table}");
        assert!(backend.diagnose().await.iter().any(|finding| finding.level == Level::Unfit), "{table}");
        if table != "missing" {
            assert_eq!(backend.init().await.unwrap_err().kind(), ErrorKind::StoreNotReady, "{table}");
        }
    }
    assert_eq!(server.sql("select name, id from other"), "job|1");
}

#[tokio::test]
async fn a_table_in_a_schema_with_odd_letters_works() {
    let server = PostgresServer::start();
    server.sql("create schema \"Ops \"\"1\"\"\"");
    let backend = backend(at(server.addr()).table("Ops \"1\".Locks"));
    assert!(backend.init().await.unwrap());
    assert!(!backend.init().await.unwrap());
    assert!(backend.check().await.unwrap().is_empty());
    granted(&backend, &request("job", LONG)).await;
    assert_eq!(server.sql("select count(*) from \"Ops \"\"1\"\"\".\"Locks\""), "1");
}

#[tokio::test]
async fn unlogged_tables_and_needless_indexes_are_reported() {
    let server = server();
    let backend = client(server.addr());
    server.sql("create index on onelock (expires_at)");
    assert_eq!(backend.check().await.unwrap().len(), 1);
    server.sql("alter table onelock set unlogged");
    assert!(backend.check().await.unwrap_err().to_string().contains("unlogged"));
}

#[tokio::test]
async fn a_user_with_four_rights_suffices() {
    let server = server();
    server.sql("create role etl login; grant select, insert, update, delete on onelock to etl");
    let config = |role: &str| {
        let server = lock_postgres::ServerConfig::new().host("127.0.0.1", server.port()).user(role);
        lock_postgres::PostgresConfig::new(server.database("postgres"))
    };
    let etl = backend(config("etl"));
    let (lease, _) = granted(&etl, &request("job", LONG)).await;
    assert_eq!(etl.renew(&lease).await.unwrap(), Renewal::Renewed);
    assert_eq!(etl.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    assert!(etl.purge(&lease.name).await.unwrap());
    assert!(etl.diagnose().await.iter().all(|finding| finding.level < Level::Unfit));
    server.sql("create role reader login; grant select on onelock to reader");
    let reader = backend(config("reader"));
    assert_eq!(reader.inspect(&name("job")).await.unwrap(), None);
    let error = reader.acquire(&request("job", LONG)).await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::PermissionDenied, false), "{error:?}");
    let findings = reader.diagnose().await;
    assert!(
        findings.iter().any(|finding| finding.subject == "rights" && finding.level == Level::Unfit),
        "{findings:?}"
    );
}

#[tokio::test]
async fn renewals_change_no_index() {
    let server = server();
    let backend = client(server.addr());
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    for _ in 0..300 {
        assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    }
    drop(backend);
    // The server counts when the connection ends.
    let counted =
        "select n_tup_upd >= 300, n_tup_upd = n_tup_hot_upd from pg_stat_user_tables where relname = 'onelock'";
    test_support::until("the counts", async || server.sql(counted).starts_with('t')).await;
    assert_eq!(server.sql(counted), "t|t");
}

#[tokio::test]
async fn each_operation_is_one_statement() {
    let server = PostgresServer::with_settings(&["shared_preload_libraries=pg_stat_statements"]);
    server.sql("create extension pg_stat_statements");
    create_table(&server);
    let backend = client(server.addr());
    granted(&backend, &request("connects", LONG)).await;
    server.sql("select pg_stat_statements_reset()");
    let calls = || server.sql("select sum(calls) from pg_stat_statements where query like '%onelock%name%'");
    let mut leases = Vec::new();
    for i in 0..10 {
        leases.push(granted(&backend, &request(&i.to_string(), LONG)).await.0);
    }
    assert_eq!(calls(), "10", "acquire");
    refused(&backend, &request("0", LONG)).await;
    assert_eq!(calls(), "11", "an attempt that is refused");
    assert!(backend.renew_many(&leases).await.into_iter().all(|renewal| renewal.unwrap() == Renewal::Renewed));
    assert_eq!(calls(), "12", "ten renewals at once");
    for lease in &leases {
        assert_eq!(backend.release(lease, Duration::ZERO).await.unwrap(), Release::Released);
    }
    assert_eq!(calls(), "22", "release");
}

#[tokio::test]
async fn releases_notify_only_if_a_waiter_is_announced() {
    let server = PostgresServer::with_settings(&["shared_preload_libraries=pg_stat_statements", "track_functions=all"]);
    create_table(&server);
    let (holder, waiter) = (client(server.addr()), client(server.addr()));
    let notifies =
        || server.sql(&format!("select waiters_until > now() from onelock where name = {}", hex(&name("job"))));
    let (lease, _) = granted(&holder, &request("job", LONG)).await;
    assert_eq!(notifies(), "", "no waiter");
    let mut watch = waiter.watch(&name("job")).await.unwrap().unwrap();
    assert_eq!(notifies(), "t");
    assert_eq!(holder.renew(&lease).await.unwrap(), Renewal::Renewed);
    let changed = tokio::time::timeout(Duration::from_millis(50), watch.changed()).await;
    assert!(changed.is_err(), "a renewal notifies no waiter");
    assert_eq!(holder.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    tokio::time::timeout(LONG, watch.changed()).await.expect("the release notifies");
}
