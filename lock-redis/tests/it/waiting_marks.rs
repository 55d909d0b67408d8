//! Marks of waiting requests, which keep newcomers from joining the holders.

use std::time::Duration;

use lock_core::{
    Mode,
    backend::{Admin, Backend, Release},
};
use test_support::redis::RedisServer;

use crate::fixture::{client, exists, granted, left, permit, reader, refused, released, waiting_writer};

const MARK: &str = "onelock:{job}:m";

#[tokio::test]
async fn a_nonsense_mark_keeps_no_reader_out() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    granted(&backend, &reader("job")).await;
    server.command(&["SET", MARK, "nonsense"]);
    granted(&backend, &reader("job")).await;
    refused(&backend, &waiting_writer("job")).await;
    refused(&backend, &reader("job")).await;
}

#[tokio::test]
async fn a_writer_renews_its_mark_and_removes_it() {
    let server = RedisServer::start();
    let (holder, writing) = (client(server.addr()), client(server.addr()));
    let (reading, _) = granted(&holder, &reader("job")).await;
    let wait = waiting_writer("job");
    refused(&writing, &wait).await;
    server.command(&["PEXPIRE", MARK, "60000"]);
    refused(&writing, &wait).await;
    assert!(left(&server, MARK) > 500_000);
    // The mark of another writer does not replace it, and a release of another id leaves it.
    let second = waiting_writer("job");
    refused(&holder, &second).await;
    assert!(matches!(holder.release(&second.lease(None), Duration::ZERO).await, Ok(Release::NotHeld(_))));
    assert!(server.command(&["GET", MARK]).contains(&wait.id.to_string()));
    released(&holder, &reading).await;
    let holder_of_mark = refused(&holder, &reader("job")).await;
    assert_eq!((holder_of_mark.owner.as_deref(), holder_of_mark.mode), (Some("test"), Mode::Exclusive));
    assert!(holder_of_mark.version.is_none() && !holder.purge(&reading.name).await.unwrap());
    let (lease, _) = granted(&writing, &wait).await;
    released(&writing, &lease).await;
    assert!(!exists(&server, MARK));
    granted(&holder, &reader("job")).await;
}

#[tokio::test]
// verifies: P12
async fn a_reader_that_waits_stops_later_permits() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let (held, _) = granted(&backend, &permit("job", 2)).await;
    let wait = reader("job").with_waits(true);
    refused(&backend, &wait).await;
    refused(&backend, &permit("job", 2)).await;
    released(&backend, &held).await;
    refused(&backend, &permit("job", 2)).await;
    granted(&backend, &reader("job")).await;
    assert!(exists(&server, MARK), "the first reader waits, although another one was granted");
    granted(&backend, &wait).await;
    assert!(!exists(&server, MARK), "the grant ends the wait");
}
