//! Cases of requests that arrive late, while other clients hold their parts of the lock.

use std::{sync::Arc, time::Duration};

use super::{joinable, renewed};
use crate::{
    backend::{AcquireOutcome, AcquireRequest, Backend, Break, Capability, Renewal},
    testing::harness::{Bench, admin, granted, refused, release},
    types::LossReason,
};

// verifies: P6, late-request, late-holder, P12
pub(in crate::testing::cases) async fn late_requests_leave_other_holders_alone(bench: &Bench<'_>) {
    for mode in joinable(&*bench.client().await) {
        let (a, b) = (bench.client().await, bench.client().await);
        let name = bench.name("late");
        let (first, _) = granted(&*a, &bench.request(&name).with_mode(mode)).await;
        let (second, _) = granted(&*b, &bench.request(&name).with_mode(mode)).await;
        release(&*a, &first).await;
        let (third, _) = granted(&*b, &bench.request(&name).with_mode(mode)).await;
        // The second release and the renewal of a released part.
        let _ = a.release(&first, Duration::ZERO).await.expect("the store answers");
        let renewal = a.renew(&first).await;
        // Holders of the same mode have taken nothing from it.
        let is_taken = matches!(renewal, Ok(Renewal::Lost(LossReason::TakenBy(_))));
        assert!(matches!(renewal, Ok(Renewal::Lost(_))) && !is_taken, "{renewal:?}");
        release(&*b, &third).await;
        renewed(&*b, &second).await;
        refused(&*a, &bench.request(&name)).await;
        release(&*b, &second).await;
    }
}

/// A duplicate of an acquire arrives after the part of its id was released, or was broken.
// verifies: P5, late-request, P12
pub(in crate::testing::cases) async fn a_late_acquire_joins_no_other_holder(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let may_ask_again = bench.subject.may_ask_again();
    for mode in joinable(&*a) {
        for breaks in [false, true].into_iter().filter(|breaks| !breaks || a.capabilities().has(Capability::Break)) {
            let name = bench.name("joins-late");
            let request = AcquireRequest { owner: "late".into(), ..bench.request(&name).with_mode(mode) };
            let (staying, _) = granted(&*b, &bench.request(&name).with_mode(mode)).await;
            let (ended, _) = granted(&*a, &request).await;
            if breaks {
                break_part_of(&b, &request).await;
            } else {
                release(&*a, &ended).await;
            }
            let is_granted = matches!(a.acquire(&request).await, Ok(AcquireOutcome::Granted(_)));
            // No client renews or releases the part of a late request.
            assert!(may_ask_again || !is_granted, "{mode}, after a break: {breaks}");
            assert!(!may_ask_again || is_granted || breaks, "{mode}: a client may not ask again");
            if is_granted {
                release(&*a, &ended).await;
            }
            renewed(&*b, &staying).await;
            release(&*b, &staying).await;
            let (writing, _) = granted(&*b, &bench.request(&name)).await;
            release(&*b, &writing).await;
        }
    }
}

async fn break_part_of(client: &Arc<dyn Backend>, request: &AcquireRequest) {
    let holder = admin(client).inspect(&request.name).await.expect("the store answers").expect("several hold the lock");
    let mut parts = holder.others.iter().chain([&holder]);
    let part = parts.find(|part| part.owner.as_deref() == Some(&request.owner)).expect("it is shown");
    let version = part.version.as_deref().expect("the lock can be broken");
    let broken = admin(client).break_lock(&request.name, version, "the suite").await;
    assert_eq!(broken.expect("the store answers"), Break::Broken);
}
