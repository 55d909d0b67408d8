//! Crashes of holders in modes that several clients share.

use super::{joinable, permit, renewed};
use crate::{
    testing::harness::{Bench, granted, refused, release},
    types::Mode,
};

// verifies: P9, P12
pub(in crate::testing::cases) async fn a_crash_frees_only_the_part_of_its_holder(bench: &Bench<'_>) {
    for mode in joinable(&*bench.client().await) {
        let (a, b) = (bench.client().await, bench.client().await);
        let name = bench.name("part");
        let (staying, _) = granted(&*a, &bench.request(&name).with_mode(mode)).await;
        let _crashing = granted(&*b, &bench.short_request(&name).with_mode(mode)).await;
        bench.subject.crash(b).await;
        let c = bench.client().await;
        refused(&*c, &bench.request(&name)).await;
        renewed(&*a, &staying).await;
        release(&*a, &staying).await;
        let (_, grant) = bench.granted_in_the_end(&*c, &bench.request(&name)).await;
        if c.capabilities().holder {
            let crashed = grant.crashed.expect("the crash is reported once the lock is free");
            assert_eq!((crashed.owner.as_deref(), crashed.mode), (Some("conformance"), mode));
        }
    }
    a_crash_is_reported_in_every_mode(bench).await;
}

/// A crash is reported to the next holder in any other mode, and to that of the same permit.
async fn a_crash_is_reported_in_every_mode(bench: &Bench<'_>) {
    let (crashing, a) = (bench.client().await, bench.client().await);
    let mut modes = joinable(&*a);
    let same = modes.contains(&permit(3)).then_some((permit(1), permit(1)));
    modes.push(Mode::Exclusive);
    let of_all = modes.iter().flat_map(|crashed| modes.iter().map(move |next| (*crashed, *next)));
    let mut left = Vec::new();
    for (index, (crashed, next)) in of_all.filter(|(crashed, next)| crashed != next).chain(same).enumerate() {
        let name = bench.name(&format!("reported-{index}"));
        granted(&*crashing, &bench.short_request(&name).with_mode(crashed)).await;
        left.push((name, crashed, next));
    }
    bench.subject.crash(crashing).await;
    for (name, crashed, next) in left {
        let (_, grant) = bench.granted_in_the_end(&*a, &bench.request(&name).with_mode(next)).await;
        if a.capabilities().holder {
            let holder = grant.crashed.unwrap_or_else(|| panic!("{next} after a crash in {crashed}"));
            assert_eq!((holder.owner.as_deref(), holder.mode), (Some("conformance"), crashed));
        }
    }
}
