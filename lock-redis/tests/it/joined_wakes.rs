//! Which waiters the release of one of several holders wakes.

use std::time::Duration;

use lock_core::backend::{Backend, Lease, Release};
use lock_redis::RedisBackend;
use test_support::redis::RedisServer;

use crate::fixture::{LONG, client, granted, name, permit, queued, reader, refused, request, waiting_writer};

async fn released(backend: &RedisBackend, lease: &Lease) {
    assert_eq!(backend.release(lease, Duration::ZERO).await.unwrap(), Release::Released);
}

async fn woken(watch: &mut Box<dyn lock_core::backend::Watch>) {
    tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.expect("a release wakes this waiter");
}

#[tokio::test]
// verifies: P12
async fn a_release_wakes_the_waiters_that_can_use_it() {
    let server = RedisServer::start();
    let clients: Vec<_> = (0..4).map(|_| client(server.addr())).collect();
    let watch = async |i: usize| clients[i].watch(&name("job")).await.unwrap().unwrap();
    // A permit that becomes free, beside another that is held.
    let (first, _) = granted(&clients[0], &permit("job", 2)).await;
    let (second, _) = granted(&clients[0], &permit("job", 2)).await;
    let mut waiting = watch(1).await;
    refused(&clients[1], &permit("job", 2)).await;
    released(&clients[0], &first).await;
    woken(&mut waiting).await;
    let (third, _) = granted(&clients[1], &permit("job", 2)).await;
    drop(waiting);
    released(&clients[0], &second).await;
    released(&clients[1], &third).await;
    // The last of the readers, and not an earlier one.
    let (first, _) = granted(&clients[0], &reader("job")).await;
    let (second, _) = granted(&clients[0], &reader("job")).await;
    let mut waiting = watch(1).await;
    released(&clients[0], &first).await;
    assert_eq!(queued(&server, "job"), 1, "the writer sleeps while a reader is left");
    released(&clients[0], &second).await;
    woken(&mut waiting).await;
    drop(waiting);
    // All waiting readers, one after the other.
    let (writing, _) = granted(&clients[0], &request("job", LONG)).await;
    let mut waiting = Vec::new();
    for (i, client) in clients.iter().enumerate().skip(1) {
        waiting.push(watch(i).await);
        refused(client, &reader("job")).await;
    }
    released(&clients[0], &writing).await;
    for (watch, client) in waiting.iter_mut().zip(&clients[1..]) {
        woken(watch).await;
        granted(client, &reader("job")).await;
    }
}

#[tokio::test]
// verifies: P12
async fn an_unused_wake_up_for_a_permit_is_passed_on() {
    let server = RedisServer::start();
    let (holder, first, second) = (client(server.addr()), client(server.addr()), client(server.addr()));
    let (lease, _) = granted(&holder, &permit("job", 2)).await;
    granted(&holder, &permit("job", 2)).await;
    let mut gives_up = first.watch(&name("job")).await.unwrap().unwrap();
    let mut next = second.watch(&name("job")).await.unwrap().unwrap();
    released(&holder, &lease).await;
    woken(&mut gives_up).await;
    drop(gives_up);
    woken(&mut next).await;
}

#[tokio::test]
// verifies: P12
async fn a_reader_woken_before_a_waiting_writer_wakes_it() {
    let server = RedisServer::start();
    let (holder, writing, reading) = (client(server.addr()), client(server.addr()), client(server.addr()));
    let (lease, _) = granted(&holder, &reader("job")).await;
    let mut first = reading.watch(&name("job")).await.unwrap().unwrap();
    let mut second = writing.watch(&name("job")).await.unwrap().unwrap();
    let wait = waiting_writer("job");
    refused(&writing, &wait).await;
    released(&holder, &lease).await;
    woken(&mut first).await;
    refused(&reading, &reader("job")).await;
    woken(&mut second).await;
    assert_eq!(queued(&server, "job"), 1, "the reader keeps its place");
    granted(&writing, &wait).await;
}

#[tokio::test]
// verifies: P12
async fn a_writer_that_gives_up_wakes_readers() {
    let server = RedisServer::start();
    let (holder, writing, reading) = (client(server.addr()), client(server.addr()), client(server.addr()));
    granted(&holder, &reader("job")).await;
    let wait = waiting_writer("job");
    refused(&writing, &wait).await;
    let mut waiting = reading.watch(&name("job")).await.unwrap().unwrap();
    refused(&reading, &reader("job")).await;
    assert!(matches!(writing.release(&wait.lease(None), Duration::ZERO).await.unwrap(), Release::NotHeld(_)));
    woken(&mut waiting).await;
    granted(&reading, &reader("job")).await;
}
