//! Cases of [`Backend::renew`](crate::backend::Backend::renew).

use tokio::time::Instant;

use crate::{
    backend::{AcquireOutcome, AcquireRequest, Break, Renewal},
    testing::harness::{Bench, acquire, admin, granted, refused, release},
    types::LossReason,
};

pub(super) async fn renewing_keeps_the_lease_past_its_ttl(bench: &Bench<'_>) {
    let (holder, other) = (bench.client().await, bench.client().await);
    let name = bench.name("renewed");
    // The store counts from a moment before its answer, which may be late.
    let mut renewed = Instant::now();
    let (lease, _) = granted(&*holder, &bench.short_request(&name)).await;
    for _ in 0..4 {
        bench.subject.pass(bench.subject.ttl() / 2).await;
        let sent = Instant::now();
        match holder.renew(&lease).await.expect("the store answers") {
            Renewal::Renewed => renewed = sent,
            // The lease may be lost only if the machine stalled for half a ttl.
            Renewal::Lost(reason) => {
                assert!(renewed.elapsed() >= bench.subject.ttl(), "lost before the ttl ended: {reason}");
            }
        }
        let attempt = acquire(&*other, &bench.request(&name)).await;
        if renewed.elapsed() < bench.subject.ttl() {
            assert!(matches!(attempt, AcquireOutcome::Contended(_)), "renewed {:?} ago", renewed.elapsed());
        }
    }
}

// verifies: P5
pub(super) async fn renewing_a_lease_repeatedly_is_idempotent(bench: &Bench<'_>) {
    let client = bench.client().await;
    let request = bench.request(&bench.name("idempotent"));
    let (lease, _) = granted(&*client, &request).await;
    for _ in 0..3 {
        assert_eq!(client.renew(&lease).await.expect("the store answers"), Renewal::Renewed);
    }
    release(&*client, &lease).await;
}

// verifies: P3
pub(super) async fn renewing_a_released_lease_reports_its_loss(bench: &Bench<'_>) {
    let client = bench.client().await;
    let name = bench.name("released");
    let (lease, _) = granted(&*client, &bench.request(&name)).await;
    release(&*client, &lease).await;
    assert!(matches!(client.renew(&lease).await.expect("the store answers"), Renewal::Lost(_)));
    // A successor does not revive the old lease.
    let (successor, _) = granted(&*client, &bench.request(&name)).await;
    assert!(matches!(client.renew(&lease).await.expect("the store answers"), Renewal::Lost(_)));
    refused(&*client, &bench.request(&name)).await;
    release(&*client, &successor).await;
}

// verifies: P6, late-holder
pub(super) async fn renewing_an_expired_lease_leaves_its_successor_alone(bench: &Bench<'_>) {
    let (late, next) = (bench.client().await, bench.client().await);
    let name = bench.name("robbed");
    let (lease, _) = granted(&*late, &bench.short_request(&name)).await;
    bench.subject.pass(bench.subject.ttl()).await;
    let long = AcquireRequest { owner: "successor".into(), ..bench.request(&name) };
    let (successor, _) = bench.granted_in_the_end(&*next, &long).await;
    match late.renew(&lease).await.expect("the store answers") {
        Renewal::Lost(_) if !late.capabilities().holder => {}
        Renewal::Lost(LossReason::TakenBy(holder)) => assert_eq!(holder.owner.as_deref(), Some("successor")),
        other => panic!("expected the new holder as the reason: {other:?}"),
    }
    assert_eq!(next.renew(&successor).await.expect("the store answers"), Renewal::Renewed);
    release(&*next, &successor).await;
}

// verifies: P3
pub(super) async fn the_next_renewal_reports_a_broken_lease(bench: &Bench<'_>) {
    let (holder, operator) = (bench.client().await, bench.client().await);
    let name = bench.name("broken");
    let long = bench.request(&name);
    let (lease, _) = granted(&*holder, &long).await;
    let version =
        refused(&*operator, &bench.request(&name)).await.version.expect("a lock that can be broken has a version");
    assert_eq!(admin(&operator).break_lock(&name, &version, "alice").await.expect("the store answers"), Break::Broken);
    match holder.renew(&lease).await.expect("the store answers") {
        Renewal::Lost(LossReason::BrokenBy(by)) => assert_eq!(by, "alice"),
        other => panic!("expected the operator as the reason: {other:?}"),
    }
    let (next, _) = granted(&*operator, &bench.request(&name)).await;
    release(&*operator, &next).await;
}

pub(super) async fn renewing_many_leases_reports_each_one_separately(bench: &Bench<'_>) {
    let client = bench.client().await;
    let mut leases = Vec::new();
    for i in 0..5 {
        let request = bench.request(&bench.name(&i.to_string()));
        leases.push(granted(&*client, &request).await.0);
    }
    release(&*client, &leases[1]).await;
    release(&*client, &leases[4]).await;
    let batch = client.timings().renew_batch.max(1);
    let mut answers = Vec::new();
    for chunk in leases.chunks(batch) {
        answers.extend(client.renew_many(chunk).await);
    }
    let renewed: Vec<_> =
        answers.into_iter().map(|answer| matches!(answer.expect("the store answers"), Renewal::Renewed)).collect();
    assert_eq!(renewed, [true, false, true, true, false]);
    for i in [0, 2, 3] {
        release(&*client, &leases[i]).await;
    }
}
