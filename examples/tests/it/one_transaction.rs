//! A write is refused by the row of its lock, in the same transaction.

use std::process::Command;

use onelock::postgres::{PostgresBackend, PostgresConfig};
use test_support::{postgres::PostgresServer, wait_for};

use crate::fixture::Process;

fn server() -> PostgresServer {
    let server = PostgresServer::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = PostgresConfig::from_url(&server.url()).unwrap();
        assert!(PostgresBackend::new(config).unwrap().init().await.unwrap());
    });
    server
}

fn start(server: &PostgresServer, args: &[&str]) -> Process {
    let program = env!("CARGO_BIN_EXE_one_transaction");
    Process::start(Command::new(program).args(args).env("DATABASE_URL", server.url()))
}

#[test]
// verifies: late-holder
fn a_late_write_is_refused_by_the_lock() {
    let server = server();
    let mut first = start(&server, &["first"]);
    assert!(first.ends().success());
    first.wait_for("written: \"first\"");
    // The pause is longer than the ttl, so another process is first.
    let mut late = start(&server, &["late", "1500"]);
    late.wait_for("locked");
    late.freeze();
    let mut new = start(&server, &["new"]);
    assert!(new.ends().success());
    new.wait_for("written: \"new\"");
    late.thaw();
    assert!(late.ends().success());
    late.wait_for("refused: \"late\"");
    late.wait_for("released: NotHeld");
    assert_eq!(server.sql("select value from settings"), "new");
}

#[test]
fn a_write_after_a_break_is_refused() {
    let server = server();
    let mut late = start(&server, &["late", "500"]);
    late.wait_for("locked");
    late.freeze();
    server.sql("update onelock set id = null, last_id = id, broken_by = 'alice', seq = seq + 1, expires_at = now()");
    late.thaw();
    assert!(late.ends().success());
    late.wait_for("refused: \"late\"");
    assert_eq!(server.sql("select count(*) from settings"), "0");
}

#[test]
// verifies: late-holder
fn no_other_client_acquires_before_the_commit() {
    let server = server();
    server.sql("create table settings (name text primary key, value text not null)");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let blocker = runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute("begin; lock table settings in exclusive mode").await.unwrap();
        client
    });
    let mut writer = start(&server, &["slow"]);
    let waits =
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like 'INSERT INTO settings%'";
    assert!(wait_for("the write to wait", || server.sql(waits) == "1"));
    let taken = server.try_sql("set lock_timeout = '100ms'; update onelock set id = gen_random_uuid()").unwrap_err();
    assert!(taken.contains("lock timeout"), "{taken}");
    runtime.block_on(blocker.batch_execute("commit")).unwrap();
    assert!(writer.ends().success());
    writer.wait_for("written: \"slow\"");
}
