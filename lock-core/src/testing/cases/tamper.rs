//! Cases of a store whose entries a third party deletes, replaces or adds, through
//! [`Subject::tamper`](crate::testing::Subject::tamper).

use std::time::Duration;

use crate::{
    backend::Renewal,
    testing::{
        Tampering,
        harness::{Bench, admin, assert_not_held, granted, refused, release},
    },
    types::{LeaseId, LockName},
};

impl Bench<'_> {
    async fn tamper(&self, what: Tampering, name: &LockName) {
        assert!(self.subject.tamper(what, name).await, "checked before the case");
    }
}

// verifies: P3, lost-record
pub(super) async fn the_next_renewal_reports_a_deleted_record(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("deleted");
    let (lease, _) = granted(&*a, &bench.request(&name)).await;
    bench.tamper(Tampering::DeleteRecord, &name).await;
    assert!(matches!(a.renew(&lease).await.expect("the store answers"), Renewal::Lost(_)));
    let (next, _) = granted(&*b, &bench.request(&name)).await;
    assert!(next.token > lease.token || !b.capabilities().fencing, "{:?} after {:?}", next.token, lease.token);
    assert_not_held(a.release(&lease, Duration::ZERO).await);
    assert_eq!(b.renew(&next).await.expect("the store answers"), Renewal::Renewed);
    release(&*b, &next).await;
}

// verifies: P3, foreign-client
pub(super) async fn a_replaced_record_belongs_to_another_client(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let name = bench.name("replaced");
    let (lease, _) = granted(&*a, &bench.request(&name)).await;
    bench.tamper(Tampering::ReplaceRecord, &name).await;
    assert!(matches!(a.renew(&lease).await.expect("the store answers"), Renewal::Lost(_)));
    assert_not_held(a.release(&lease, Duration::ZERO).await);
    refused(&*b, &bench.request(&name)).await;
}

// verifies: P7, lost-token
pub(super) async fn fencing_tokens_increase_after_their_record_is_deleted(bench: &Bench<'_>) {
    let client = bench.client().await;
    let name = bench.name("tokens");
    let mut last = None;
    for _ in 0..5 {
        let (lease, _) = granted(&*client, &bench.request(&name)).await;
        assert!(lease.token > last, "{:?} after {last:?}", lease.token);
        last = lease.token;
        release(&*client, &lease).await;
        bench.tamper(Tampering::DeleteToken, &name).await;
    }
}

// verifies: odd-entries
pub(super) async fn an_odd_entry_is_listed_and_hides_no_lock(bench: &Bench<'_>) {
    let (a, b) = (bench.client().await, bench.client().await);
    let prefix = format!("odd/{}/", LeaseId::random());
    let name = |short| LockName::new(format!("{prefix}{short}")).expect("short and not empty");
    // The odd entry is between the locks, in the order of the names.
    let (first, _) = granted(&*a, &bench.request(&name("a"))).await;
    let (last, _) = granted(&*a, &bench.request(&name("z"))).await;
    bench.tamper(Tampering::AddOddEntry, &name("m")).await;
    let listed = admin(&b).list(&prefix).await.expect("one odd entry is no reason to list nothing");
    let (foreign, ours): (Vec<_>, Vec<_>) = listed.locks.iter().partition(|(_, holder)| holder.foreign.is_some());
    assert_eq!(ours.iter().map(|(name, _)| name).collect::<Vec<_>>(), [&name("a"), &name("z")]);
    let is_named = foreign.iter().any(|(at, _)| *at == name("m")) || listed.odd_count() > 0;
    assert!(is_named, "the list does not name the odd entry: {listed:?}");
    for lease in [&first, &last] {
        release(&*a, lease).await;
    }
}
