//! The marks of requests that wait for holders of another mode: how long one keeps newcomers out.

use std::time::Duration;

use lock_core::{
    Mode,
    backend::{AcquireOutcome, AcquireRequest, Backend as _},
};
use lock_dynamo::DynamoBackend;

use super::by_hand::{BOUND, HOUR, TTL, World, granted, request};

/// A reader that outlasts each test.
fn reader() -> AcquireRequest {
    request("a").with_mode(Mode::Shared).with_ttl(10 * TTL)
}

fn writer() -> AcquireRequest {
    request("a").with_waits(true)
}

async fn refused(backend: &DynamoBackend, request: &AcquireRequest) {
    let outcome = backend.acquire(request).await.unwrap();
    assert!(matches!(outcome, AcquireOutcome::Contended(_)), "{:?}", request.mode);
}

#[tokio::test]
// verifies: P12
async fn a_waiting_writer_stays_before_a_queue_beyond_its_ttl() {
    let world = World::new();
    let [holder, waiting, queued] = [(); 3].map(|()| world.process(0));
    granted(holder.acquire(&reader()).await);
    let (writer, behind) = (writer(), reader().with_fair(true).with_waits(true));
    for _ in 0..4 {
        refused(&waiting, &writer).await;
        refused(&queued, &behind).await;
        world.pass(TTL / 3 * 2);
    }
}

/// The first request of a process has a clock that no reply has corrected yet.
#[tokio::test]
// verifies: P8, P12
async fn a_clock_that_is_off_passes_no_mark_and_waits_for_no_dead_one() {
    for off in [-HOUR, HOUR] {
        let world = World::new();
        let [holder, waiting] = [(); 2].map(|()| world.process(0));
        granted(holder.acquire(&reader()).await);
        refused(&waiting, &writer()).await;
        let end = world.now() + TTL;
        world.set(end - BOUND);
        refused(&world.process(off), &reader()).await;
        world.set(end + BOUND + Duration::from_secs(1));
        granted(world.process(off).acquire(&reader()).await);
    }
}
