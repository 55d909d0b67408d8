//! Cases of requests that wait for holders of another mode.

use std::time::Duration;

use super::{joinable, permit, reader, renewed, writer};
use crate::{
    testing::harness::{Bench, assert_not_held, granted, refused, release},
    types::Mode,
};

// verifies: P12, contention
pub(in crate::testing::cases) async fn later_readers_do_not_overtake_a_waiting_writer(bench: &Bench<'_>) {
    let (a, b, c) = (bench.client().await, bench.client().await, bench.client().await);
    for mode in joinable(&*a) {
        let name = bench.name("fair");
        let joins = || bench.request(&name).with_mode(mode);
        let (first, _) = granted(&*a, &joins()).await;
        let waiting = writer(bench, &name);
        refused(&*b, &waiting).await;
        // The present holder goes on, and asks again without harm.
        renewed(&*a, &first).await;
        refused(&*c, &joins()).await;
        refused(&*b, &waiting).await;
        release(&*a, &first).await;
        refused(&*c, &joins()).await;
        let (writing, _) = granted(&*b, &waiting).await;
        release(&*b, &writing).await;
        let _ = granted(&*c, &joins()).await;
    }
    if !a.capabilities().has_mode(permit(3)) {
        return;
    }
    // A reader that has waited for permits leaves no mark in the place of that of a writer.
    let name = bench.name("fair-next");
    let (held, _) = granted(&*a, &bench.request(&name).with_mode(permit(3))).await;
    let first = reader(bench, &name).with_waits(true);
    refused(&*b, &first).await;
    release(&*a, &held).await;
    let _reading = granted(&*b, &first).await;
    refused(&*c, &writer(bench, &name)).await;
    refused(&*a, &reader(bench, &name)).await;
}

/// A reader waits for permits, and a permit for readers.
// verifies: P12, contention
pub(in crate::testing::cases) async fn a_waiter_of_another_mode_is_not_overtaken(bench: &Bench<'_>) {
    let (a, b, c) = (bench.client().await, bench.client().await, bench.client().await);
    for (present, awaited) in [(permit(3), Mode::Shared), (Mode::Shared, permit(3))] {
        let name = bench.name("fair-modes");
        let joins = || bench.request(&name).with_mode(present);
        let (held, _) = granted(&*a, &joins()).await;
        let waiting = bench.request(&name).with_mode(awaited).with_waits(true);
        refused(&*b, &waiting).await;
        refused(&*c, &joins()).await;
        renewed(&*a, &held).await;
        release(&*a, &held).await;
        refused(&*c, &joins()).await;
        let (next, _) = granted(&*b, &waiting).await;
        // The grant ends the wait: others of its mode join it.
        let (joined, _) = granted(&*c, &bench.request(&name).with_mode(awaited)).await;
        release(&*c, &joined).await;
        release(&*b, &next).await;
        let (last, _) = granted(&*c, &joins()).await;
        release(&*c, &last).await;
    }
}

// verifies: P12
pub(in crate::testing::cases) async fn a_writer_that_does_not_wait_keeps_no_reader_out(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("try");
    let _first = granted(&*a, &reader(bench, &name)).await;
    refused(&*b, &bench.request(&name)).await;
    let _second = granted(&*b, &reader(bench, &name)).await;
}

// verifies: P12, cancelled
pub(in crate::testing::cases) async fn a_writer_that_gives_up_lets_readers_in(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("given-up");
    let _first = granted(&*a, &reader(bench, &name)).await;
    let (waiting, other) = (writer(bench, &name), writer(bench, &name));
    refused(&*b, &waiting).await;
    refused(&*a, &other).await;
    // The other writer still waits.
    assert_not_held(a.release(&other.lease(None), Duration::ZERO).await);
    refused(&*a, &reader(bench, &name)).await;
    assert_not_held(b.release(&waiting.lease(None), Duration::ZERO).await);
    let _second = granted(&*b, &reader(bench, &name)).await;
}

// verifies: P9, P12
pub(in crate::testing::cases) async fn a_crashed_waiting_writer_lets_readers_in(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("crashed-waiter");
    let (reading, _) = granted(&*a, &reader(bench, &name)).await;
    refused(&*b, &writer(bench, &name).with_ttl(bench.ttl_of(1.0))).await;
    bench.subject.crash(b).await;
    let c = bench.client().await;
    let (second, _) = bench.granted_in_the_end(&*c, &reader(bench, &name)).await;
    renewed(&*a, &reading).await;
    release(&*c, &second).await;
}
