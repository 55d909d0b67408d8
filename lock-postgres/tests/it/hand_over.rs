//! Locks that pass from task to task of one process.

use std::sync::Arc;

use lock_core::Locker;
use test_support::hand_over::assert_two_lockers_exclude_each_other;

use crate::fixture::{LONG, client, granted, released, request, server};

#[tokio::test]
async fn two_processes_that_hand_over_exclude_each_other() {
    let server = server();
    let locker = || Locker::builder(Arc::new(client(server.addr()))).hand_over(3).build().unwrap();
    assert_two_lockers_exclude_each_other([locker(), locker()]).await;
}

#[tokio::test]
async fn a_repeated_acquire_is_no_grant_to_others() {
    let server = server();
    let backend = client(server.addr());
    let before = granted(&backend, &request("job", LONG)).await.0;
    released(&backend, &before).await;
    let repeated = request("job", LONG).with_reserved_tokens(3);
    let (_, first) = granted(&backend, &repeated).await;
    assert_eq!((first.already_ours, first.previous_token), (false, before.token));
    let (lease, second) = granted(&backend, &repeated).await;
    assert_eq!((second.already_ours, second.previous_token), (true, None), "its own token is that of no other");
    released(&backend, &lease).await;
}
