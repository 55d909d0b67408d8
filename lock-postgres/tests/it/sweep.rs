//! Rows of names that are not used any more are deleted by their age, and tokens keep rising.

use std::time::Duration;

use lock_core::{
    ErrorKind, FencingToken,
    backend::{Backend, Release},
};
use test_support::postgres::PostgresServer;

use crate::{
    fixture::{LONG, client, granted, name, permit, reader, request, server, waiting_writer},
    shedlock,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Lets the rows look as if `hours` had passed.
fn age(server: &PostgresServer, hours: u32) {
    server.sql(&format!(
        "update onelock set expires_at = expires_at - interval '{hours} h',
        waiting_until = waiting_until - interval '{hours} h', waiters_until = waiters_until - interval '{hours} h',
        part_ends = (select array_agg(e - interval '{hours} h') from unnest(part_ends) e)"
    ));
}

#[tokio::test]
// verifies: P7
async fn a_sweep_deletes_idle_rows_and_tokens_rise() {
    let server = server();
    let backend = client(server.addr());
    let (idle, _) = granted(&backend, &request("idle", LONG)).await;
    assert_eq!(backend.release(&idle, Duration::ZERO).await.unwrap(), Release::Released);
    // The minimum hold of a part is over, too.
    let (part, _) = granted(&backend, &permit("part", 2)).await;
    assert_eq!(backend.release(&part, Duration::from_secs(1)).await.unwrap(), Release::Released);
    let (ahead, _) = granted(&backend, &request("ahead", LONG)).await;
    let raised = FencingToken::new(FencingToken::MAX.get() - 1_000_000_000_000_000).unwrap();
    assert!(backend.advance_token(&ahead, raised).await.unwrap());
    assert_eq!(backend.release(&ahead, Duration::ZERO).await.unwrap(), Release::Released);
    granted(&backend, &request("crashed", LONG)).await;
    granted(&backend, &reader("crashed reader")).await;
    age(&server, 25);
    let (recent, _) = granted(&backend, &request("recent", LONG)).await;
    assert_eq!(backend.release(&recent, Duration::ZERO).await.unwrap(), Release::Released);
    granted(&backend, &request("held", LONG)).await;
    server.sql("insert into onelock (name, token, seq, expires_at) values ('\\xff', 1, 1, 'epoch')");

    let swept = [name("idle"), name("part")];
    assert_eq!(backend.idle_names(2 * DAY).await.unwrap(), []);
    assert_eq!(backend.idle_names(DAY).await.unwrap(), swept);
    assert_eq!(server.sql("select count(*) from onelock"), "8", "a question deletes nothing");
    assert_eq!(backend.sweep(DAY).await.unwrap(), swept);
    assert_eq!(backend.sweep(DAY).await.unwrap(), []);
    let left = "select string_agg(encode(name, 'escape'), ',' order by name) from onelock";
    assert_eq!(server.sql(left), "ahead,crashed,crashed reader,held,recent,\\377");
    let (again, grant) = granted(&backend, &request("idle", LONG)).await;
    assert!(again.token > idle.token && grant.crashed.is_none());
    let (again, _) = granted(&backend, &request("ahead", LONG)).await;
    assert!(again.token > Some(raised));
}

#[tokio::test]
async fn a_sweep_keeps_rows_that_are_used_or_waited_for() {
    let server = server();
    let backend = client(server.addr());
    let (held, _) = granted(&backend, &reader("job")).await;
    crate::fixture::refused(&backend, &waiting_writer("job")).await;
    assert_eq!(backend.release(&held, Duration::ZERO).await.unwrap(), Release::Released);
    server.sql("update onelock set expires_at = expires_at - interval '25 h'");
    assert_eq!(backend.sweep(DAY).await.unwrap(), [], "a writer waits");
    server.sql("update onelock set waiting_until = null");
    let _watch = backend.watch(&name("job")).await.unwrap().unwrap();
    server.sql("update onelock set waiters_until = now() + interval '1 minute'");
    assert_eq!(backend.sweep(DAY).await.unwrap(), [], "a waiter listens");
    server.sql("update onelock set waiters_until = null");
    assert_eq!(backend.sweep(DAY).await.unwrap(), [name("job")]);
}

#[tokio::test]
async fn a_sweep_of_less_than_a_day_or_of_shedlock_is_refused() {
    let server = shedlock::server().await;
    let error = shedlock::client(&server).sweep(DAY).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let error = client(server.addr()).sweep(DAY / 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}
