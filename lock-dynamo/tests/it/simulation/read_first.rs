//! A read before the write, of a table that answers as late as DynamoDB may.

use std::time::Duration;

use lock_core::backend::{AcquireOutcome, Backend as _, Release};

use super::by_hand::{World, request, take};

#[tokio::test]
async fn a_read_first_shows_the_release_right_before_it() {
    let world = World::new();
    let (holder, other) = (world.process(0), world.configured(0, |config| config.read_first(true)));
    let lease = take(&holder, "a").await;
    let refused = other.acquire(&request("a")).await.unwrap();
    assert!(matches!(refused, AcquireOutcome::Contended(_)), "{refused:?}");
    assert_eq!(holder.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    world.take_seen();
    // A read that is not consistent would still show the holder, and the fleet would skip its run.
    take(&other, "a").await;
    assert_eq!(world.take_seen()[0], "GetItem");
}

#[tokio::test]
async fn a_read_first_shows_the_acquisition_right_before_it() {
    let world = World::new();
    let (holder, other) = (world.process(0), world.configured(0, |config| config.read_first(true)));
    let lease = take(&holder, "a").await;
    assert_eq!(holder.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    take(&holder, "a").await;
    world.take_seen();
    let refused = other.acquire(&request("a")).await.unwrap();
    assert!(matches!(refused, AcquireOutcome::Contended(_)), "{refused:?}");
    assert_eq!(world.take_seen(), ["GetItem"], "no write is billed");
}
