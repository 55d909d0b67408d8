//! Tests on the server of Google's documented preconditions.

use std::time::Duration;

use lock_core::{
    ErrorKind,
    backend::{Backend, Release, Renewal},
};

use crate::fixture::{Bucket, Kind, granted, name, request};

const TTL: Duration = Duration::from_secs(60);

#[tokio::test]
// verifies: throttled
async fn writes_above_one_a_second_are_throttled() {
    let bucket = Bucket::new(Kind::Gcs).await;
    let backend = bucket.backend();
    let first = granted(&backend, &request(&name("probed"), TTL)).await;
    bucket.gcs.as_ref().expect("it is the server of this test").limit_writes();
    let lease = granted(&backend, &request(&name("a"), TTL)).await;
    let error = backend.renew(&lease).await.expect_err("it was written within this second");
    assert_eq!((error.kind(), error.is_ambiguous(), error.is_retryable()), (ErrorKind::Throttled, false, true));
    test_support::until("the second to be over", async || backend.renew(&lease).await.is_ok()).await;
    test_support::until("the next second to be over", async || {
        backend.release(&lease, Duration::ZERO).await.is_ok_and(|answer| answer == Release::Released)
    })
    .await;
    assert_eq!(backend.renew(&first).await.unwrap(), Renewal::Renewed);
}

#[tokio::test]
async fn a_purge_deletes_only_the_generation_that_was_seen() {
    let bucket = Bucket::new(Kind::Gcs).await;
    let backend = bucket.backend();
    let lease = granted(&backend, &request(&name("a"), TTL)).await;
    let admin = backend.admin().unwrap();
    assert!(!admin.purge(&name("a")).await.unwrap(), "it is held");
    let _ = backend.release(&lease, Duration::ZERO).await.unwrap();
    assert!(admin.purge(&name("a")).await.unwrap());
    assert_eq!(bucket.get(&name("a")).status, 404);
}
