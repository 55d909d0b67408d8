//! One program, six stores.

use std::process::Command;

use test_support::{object_stores::ObjectStoreServer, postgres::PostgresServer, redis::RedisServer, wait_for};

use crate::fixture::{Process, dynamo::Table};

/// Starts the program, which works until its input is closed.
fn start(url: &str) -> Process {
    Process::start_with_input(Command::new(env!("CARGO_BIN_EXE_choose_backend")).env("ONELOCK_URL", url))
}

fn token(process: &Process) -> u64 {
    process.wait_for("working under ");
    let lines = process.lines();
    let (_, token) = lines[0].rsplit_once("token Some(").expect("these stores have tokens");
    token.trim_end_matches(')').parse().expect("a number")
}

fn excludes(url: &str) {
    let mut first = start(url);
    let before = token(&first);
    let mut second = start(url);
    assert!(second.ends().success());
    second.wait_for("skipped: held by ");
    first.close_input();
    assert!(first.ends().success());
    first.wait_for("done, and Released");
    let mut third = start(url);
    assert!(token(&third) > before);
    // The lock of a killed process is free immediately, or when its lease ends.
    third.kill();
    let took_over = wait_for("the lock of the killed process", || {
        let mut next = start(url);
        next.close_input();
        assert!(next.ends().success());
        next.says("done, and Released")
    });
    assert!(took_over);
}

#[test]
fn on_files() {
    let dir = tempfile::tempdir().unwrap();
    excludes(&format!("file://{}", dir.path().display()));
}

#[test]
fn on_redis() {
    let redis = RedisServer::start();
    excludes(&format!("redis://127.0.0.1:{}?ttl=5s", redis.port()));
}

#[test]
fn on_dynamodb() {
    let table = Table::new();
    excludes(&table.url("ttl=5s&access_key_id=test&secret_access_key=test"));
}

#[test]
fn on_postgres() {
    let server = PostgresServer::start();
    let url = format!("{}?ttl=5s", server.url());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = onelock::postgres::PostgresConfig::from_url(&server.url()).unwrap();
        assert!(onelock::postgres::PostgresBackend::new(config).unwrap().init().await.unwrap());
    });
    excludes(&url);
}

#[test]
fn on_s3() {
    let server = ObjectStoreServer::seaweedfs();
    let bucket = format!("choose-{}", std::process::id());
    server.create_bucket(&bucket);
    excludes(&format!("s3://{bucket}?endpoint={}&anonymous=true&skew=0s&ttl=10s", server.endpoint()));
}

/// Locks in memory are not shared between processes.
#[test]
fn in_memory() {
    let (mut first, mut second) = (start("memory:"), start("memory:"));
    for process in [&mut first, &mut second] {
        process.wait_for("working under memory:");
        process.close_input();
        assert!(process.ends().success());
        process.wait_for("done, and Released");
    }
}
