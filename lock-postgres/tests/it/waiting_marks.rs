//! Marks of waiting requests, which keep newcomers from joining the holders.

use std::time::Duration;

use lock_core::{
    ErrorKind, Mode,
    backend::{Admin, Backend, Release},
};

use crate::fixture::{LONG, client, granted, name, permit, reader, refused, released, request, server, waiting_writer};

#[tokio::test]
async fn a_writer_renews_its_mark_and_removes_it() {
    let server = server();
    let (holder, writing) = (client(server.addr()), client(server.addr()));
    let (reading, _) = granted(&holder, &reader("job")).await;
    let wait = waiting_writer("job");
    refused(&writing, &wait).await;
    let row = || server.sql("select xmin from onelock");
    let marked = row();
    refused(&writing, &wait).await;
    assert_eq!(row(), marked, "the mark is written again when half of its time is over");
    server.sql("update onelock set waiting_until = now() + interval '1 minute'");
    refused(&writing, &wait).await;
    assert_eq!(server.sql("select waiting_until > now() + interval '9 minutes' from onelock"), "t");
    // The mark of another writer does not replace it, and a release of another id leaves it.
    let second = waiting_writer("job");
    refused(&holder, &second).await;
    assert!(matches!(holder.release(&second.lease(None), Duration::ZERO).await, Ok(Release::NotHeld(_))));
    assert_eq!(server.sql("select replace(waiting_id::text, '-', '') from onelock"), wait.id.to_string());
    released(&holder, &reading).await;
    let waiting = refused(&holder, &reader("job")).await;
    assert_eq!((waiting.owner.as_deref(), waiting.mode), (Some("test"), Mode::Exclusive));
    assert!(waiting.version.is_none() && !holder.purge(&reading.name).await.unwrap());
    let (lease, _) = granted(&writing, &wait).await;
    released(&writing, &lease).await;
    assert_eq!(server.sql("select waiting_until is null from onelock"), "t");
    granted(&holder, &reader("job")).await;
}

#[tokio::test]
// verifies: P12
async fn a_wrong_number_of_permits_leaves_no_mark() {
    let server = server();
    let backend = client(server.addr());
    granted(&backend, &permit("job", 3)).await;
    let error = backend.acquire(&permit("job", 4).with_waits(true)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(server.sql("select waiting_until is null from onelock"), "t");
    granted(&backend, &permit("job", 3)).await;
}

#[tokio::test]
// verifies: cancelled, P12
async fn a_mark_that_another_holder_outlives_is_removed() {
    let server = server();
    let backend = client(server.addr());
    let (reading, _) = granted(&backend, &reader("job")).await;
    let wait = waiting_writer("job");
    refused(&backend, &wait).await;
    released(&backend, &reading).await;
    let (other, _) = granted(&backend, &request("job", LONG)).await;
    // The waiter gives up while another writer has the lock.
    assert!(matches!(backend.release(&wait.lease(None), Duration::ZERO).await, Ok(Release::NotHeld(Some(_)))));
    released(&backend, &other).await;
    granted(&backend, &reader("job")).await;
}

#[tokio::test]
// verifies: late-request, P12
async fn a_request_after_its_release_leaves_no_mark() {
    let server = server();
    let backend = client(server.addr());
    granted(&backend, &reader("job")).await;
    for late in [waiting_writer("job"), permit("job", 2).with_waits(true)] {
        assert!(matches!(backend.release(&late.lease(None), Duration::ZERO).await, Ok(Release::NotHeld(_))));
        let _ = backend.acquire(&late).await;
        granted(&backend, &reader("job")).await;
    }
}

#[tokio::test]
async fn a_reader_that_waits_stops_later_permits() {
    let server = server();
    let backend = client(server.addr());
    let (held, _) = granted(&backend, &permit("job", 2)).await;
    let wait = reader("job").with_waits(true);
    refused(&backend, &wait).await;
    refused(&backend, &permit("job", 2)).await;
    released(&backend, &held).await;
    refused(&backend, &permit("job", 2)).await;
    granted(&backend, &wait).await;
    assert_eq!(server.sql("select waiting_until is null from onelock"), "t", "the grant ends the wait");
}

#[tokio::test]
// verifies: P12
async fn released_parts_and_given_up_waits_wake_waiters() {
    let server = server();
    let (holder, waiter) = (client(server.addr()), client(server.addr()));
    let (part, _) = granted(&holder, &permit("job", 1)).await;
    refused(&waiter, &permit("job", 1)).await;
    let mut watch = waiter.watch(&name("job")).await.unwrap().unwrap();
    released(&holder, &part).await;
    tokio::time::timeout(LONG, watch.changed()).await.expect("the release notifies");
    let (_, _) = granted(&holder, &permit("job", 1)).await;
    let wait = waiting_writer("job");
    refused(&holder, &wait).await;
    let mut watch = waiter.watch(&name("job")).await.unwrap().unwrap();
    assert!(matches!(holder.release(&wait.lease(None), Duration::ZERO).await, Ok(Release::NotHeld(_))));
    tokio::time::timeout(LONG, watch.changed()).await.expect("the end of the wait notifies");
}
