//! Locks that pass from task to task of one process.

use std::sync::Arc;

use lock_core::Locker;
use test_support::hand_over::assert_two_lockers_exclude_each_other;

use crate::fixture::{client, server};

#[tokio::test]
async fn two_processes_that_hand_over_exclude_each_other() {
    let server = server();
    let locker = || Locker::builder(Arc::new(client(server.addr()))).hand_over(3).build().unwrap();
    assert_two_lockers_exclude_each_other([locker(), locker()]).await;
}
