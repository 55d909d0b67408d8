//! Requests and replies about shared locks that are lost, late or repeated, on each kind of
//! connection, while another reader holds the lock. The other reader keeps its part.

use std::time::Duration;

use lock_core::backend::{AcquireOutcome, AcquireRequest, Admin, Backend, Break, Lease, Release, Renewal};
use test_support::Direction::{Replies, Requests};

use crate::{
    fixture::{Fixture, JOB, LONG, granted, name, reader, request},
    lost_replies::again,
};

/// Defines a test for each case and each kind of connection.
macro_rules! everywhere {
    ($($case:ident),* $(,)?) => {
        everywhere!(@ plain $($case)*);
        everywhere!(@ named $($case)*);
        everywhere!(@ tls $($case)*);
        everywhere!(@ pooled $($case)*);
    };
    (@ $form:ident $($case:ident)*) => {
        mod $form {
            $(
                #[tokio::test]
                async fn $case() {
                    let parts = super::Parts::new($crate::fixture::Fixture::$form().await).await;
                    super::$case(&parts).await;
                    parts.check_other().await;
                }
            )*
        }
    };
}

everywhere! {
    a_part_whose_reply_was_lost_is_found_to_be_ours,
    a_part_that_arrives_after_its_release_is_refused,
    a_duplicate_after_a_release_adds_no_part,
    a_duplicate_after_a_break_adds_no_part,
    a_release_with_a_lost_reply_ends_one_part,
    a_renewal_with_a_lost_reply_has_renewed,
}

struct Parts {
    fixture: Fixture,
    /// The part of the other reader, a client with a direct connection.
    other: Lease,
}

impl Parts {
    async fn new(fixture: Fixture) -> Self {
        let (other, _) = granted(&fixture.direct, &reader(JOB)).await;
        Self { fixture, other }
    }

    /// How many hold the lock.
    async fn held(&self) -> u64 {
        self.fixture.direct.inspect(&name(JOB)).await.unwrap().map_or(0, |holder| holder.count())
    }

    async fn check_other(&self) {
        assert_eq!(self.fixture.direct.renew(&self.other).await.unwrap(), Renewal::Renewed);
        assert_eq!(self.held().await, 1, "the part of the other reader is left");
        self.released(&self.other).await;
        granted(&self.fixture.direct, &request(JOB, LONG)).await;
    }

    /// Sends an acquire that does not arrive yet.
    async fn held_back(&self, request: &AcquireRequest) {
        self.fixture.proxy.hold(Requests);
        assert!(self.fixture.through.acquire(request).await.unwrap_err().is_ambiguous());
    }

    async fn released(&self, lease: &Lease) {
        assert_eq!(self.fixture.direct.release(lease, Duration::ZERO).await.unwrap(), Release::Released);
    }
}

// verifies: lost-reply, P12
async fn a_part_whose_reply_was_lost_is_found_to_be_ours(parts: &Parts) {
    let (request, fixture) = (reader(JOB), &parts.fixture);
    fixture.proxy.lose(Replies);
    assert!(fixture.through.acquire(&request).await.unwrap_err().is_ambiguous());
    fixture.proxy.heal();
    let AcquireOutcome::Granted(grant) = again(async || fixture.through.acquire(&request).await).await else {
        panic!("readers may join")
    };
    assert!(grant.already_ours, "{grant:?}");
    assert_eq!(parts.held().await, 2, "it has one part");
    assert!(grant.token > parts.other.token);
    parts.released(&request.lease(grant.token)).await;
}

// verifies: late-request, P12
async fn a_part_that_arrives_after_its_release_is_refused(parts: &Parts) {
    let late = reader(JOB);
    parts.held_back(&late).await;
    let released = parts.fixture.direct.release(&late.lease(None), Duration::ZERO).await.unwrap();
    assert!(matches!(released, Release::NotHeld(_)), "{released:?}");
    parts.fixture.let_arrive(1).await;
    assert_eq!(parts.held().await, 1, "the late acquire was refused");
}

// verifies: late-request, P12
async fn a_duplicate_after_a_release_adds_no_part(parts: &Parts) {
    let request = reader(JOB);
    parts.held_back(&request).await;
    // The retry is faster, by another connection.
    let (lease, _) = granted(&parts.fixture.direct, &request).await;
    parts.released(&lease).await;
    parts.fixture.let_arrive(1).await;
    assert_eq!(parts.held().await, 1, "the late acquire was refused");
}

// verifies: late-request, P12
async fn a_duplicate_after_a_break_adds_no_part(parts: &Parts) {
    let request = reader(JOB);
    parts.held_back(&request).await;
    granted(&parts.fixture.direct, &request).await;
    let broken = parts.fixture.direct.break_lock(&request.name, &request.id.to_string(), "an operator").await.unwrap();
    assert_eq!(broken, Break::Broken);
    parts.fixture.let_arrive(1).await;
    assert_eq!(parts.held().await, 1, "the late acquire was refused");
}

// verifies: lost-reply, P12
async fn a_release_with_a_lost_reply_ends_one_part(parts: &Parts) {
    let fixture = &parts.fixture;
    let (lease, _) = granted(&fixture.through, &reader(JOB)).await;
    fixture.proxy.lose(Replies);
    assert!(fixture.through.release(&lease, Duration::ZERO).await.unwrap_err().is_ambiguous());
    assert_eq!(parts.held().await, 1);
    fixture.proxy.heal();
    let again = again(async || fixture.through.release(&lease, Duration::ZERO).await).await;
    assert!(matches!(again, Release::NotHeld(_)), "{again:?}");
}

// verifies: lost-reply, P12
async fn a_renewal_with_a_lost_reply_has_renewed(parts: &Parts) {
    let fixture = &parts.fixture;
    let (lease, _) = granted(&fixture.through, &reader(JOB)).await;
    fixture.proxy.lose(Replies);
    let longer = lease.clone().with_ttl(LONG * 3);
    assert!(fixture.through.renew(&longer).await.unwrap_err().is_ambiguous());
    let holder = fixture.direct.inspect(&lease.name).await.unwrap().unwrap();
    assert!(holder.others[0].expires_in.unwrap() > LONG * 2, "{holder}");
    fixture.proxy.heal();
    assert_eq!(again(async || fixture.through.renew(&lease).await).await, Renewal::Renewed);
    parts.released(&lease).await;
}
