//! Cases for shared locks while another reader holds the lock. The other reader keeps its part.

use std::time::Duration;

use lock_core::backend::{AcquireOutcome, AcquireRequest, Admin as _, Backend, Break, Lease, Release, Renewal};

use super::{JOB, Network};
use crate::{
    Direction::{Replies, Requests},
    requests::{LONG, again, granted, name, permit, reader, refused, request, waiting_writer},
};

struct Parts<N> {
    network: N,
    /// The part of the other reader, a client with a direct connection.
    other: Lease,
}

impl<N: Network> Parts<N> {
    async fn new(network: N) -> Self {
        // Loads what a server loads at its first use, so that a lost reply is never about that.
        let (lease, _) = granted(network.through(), &reader(JOB)).await;
        assert_eq!(network.through().renew(&lease).await.unwrap(), Renewal::Renewed);
        let wait = waiting_writer(JOB);
        refused(network.through(), &wait).await;
        assert!(matches!(network.through().release(&wait.lease(None), Duration::ZERO).await, Ok(Release::NotHeld(_))));
        assert_eq!(network.through().release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
        let (other, _) = granted(network.direct(), &reader(JOB)).await;
        Self { network, other }
    }

    /// How many hold the lock.
    async fn held(&self) -> u64 {
        self.network.direct().inspect(&name(JOB)).await.unwrap().map_or(0, |holder| holder.count())
    }

    async fn check_other(&self) {
        assert_eq!(self.network.direct().renew(&self.other).await.unwrap(), Renewal::Renewed);
        assert_eq!(self.held().await, 1, "the part of the other reader is left");
        assert_eq!(self.network.direct().release(&self.other, Duration::ZERO).await.unwrap(), Release::Released);
        granted(self.network.direct(), &request(JOB, LONG)).await;
    }

    /// Sends an acquire that does not arrive yet.
    async fn held_back(&self, request: &AcquireRequest) {
        self.network.hold(Requests);
        assert!(self.network.through().acquire(request).await.unwrap_err().is_ambiguous());
    }

    async fn released(&self, lease: &Lease) {
        assert_eq!(self.network.direct().release(lease, Duration::ZERO).await.unwrap(), Release::Released);
    }
}

// verifies: lost-reply, P12
pub async fn a_part_whose_reply_was_lost_is_found_to_be_ours<N: Network>(network: N) {
    let parts = &Parts::new(network).await;
    let (request, network) = (reader(JOB), &parts.network);
    network.lose(Replies);
    assert!(network.through().acquire(&request).await.unwrap_err().is_ambiguous());
    network.heal();
    let AcquireOutcome::Granted(grant) = again(async || network.through().acquire(&request).await).await else {
        panic!("readers may join")
    };
    assert!(grant.already_ours || network.is_quorum(), "{grant:?}");
    assert_eq!(parts.held().await, 2, "it has one part");
    assert!(grant.token > parts.other.token);
    parts.released(&request.lease(grant.token)).await;
    parts.check_other().await;
}

// verifies: late-request, P12
pub async fn a_part_that_arrives_after_its_release_is_refused<N: Network>(network: N) {
    let parts = &Parts::new(network).await;
    let late = reader(JOB);
    let gives_up = async || {
        let released = parts.network.direct().release(&late.lease(None), Duration::ZERO).await.unwrap();
        assert!(matches!(released, Release::NotHeld(_)), "{released:?}");
    };
    // Given up once before the request, which is then sent by a retry.
    gives_up().await;
    parts.held_back(&late).await;
    gives_up().await;
    parts.network.let_arrive(1).await;
    assert_eq!(parts.held().await, 1, "the late acquire was refused");
    parts.check_other().await;
}

// verifies: late-request, P12
pub async fn a_duplicate_after_a_release_adds_no_part<N: Network>(network: N) {
    let parts = &Parts::new(network).await;
    let request = reader(JOB);
    parts.held_back(&request).await;
    // The retry is faster, by another connection.
    let (lease, _) = granted(parts.network.direct(), &request).await;
    parts.released(&lease).await;
    parts.network.let_arrive(1).await;
    assert_eq!(parts.held().await, 1, "the late acquire was refused");
    parts.check_other().await;
}

// verifies: late-request, P12
pub async fn a_duplicate_after_a_break_adds_no_part<N: Network>(network: N) {
    let parts = &Parts::new(network).await;
    let request = reader(JOB);
    parts.held_back(&request).await;
    granted(parts.network.direct(), &request).await;
    let broken =
        parts.network.direct().break_lock(&request.name, &request.id.to_string(), "an operator").await.unwrap();
    assert_eq!(broken, Break::Broken);
    parts.network.let_arrive(1).await;
    assert_eq!(parts.held().await, 1, "the late acquire was refused");
    parts.check_other().await;
}

// verifies: late-request, P12
pub async fn a_late_rollback_spares_a_part_acquired_again<N: Network>(network: N) {
    let parts = &Parts::new(network).await;
    let (request, network) = (reader(JOB), &parts.network);
    let (lease, _) = granted(network.through(), &request).await;
    network.hold(Requests);
    assert!(network.through().release(&lease, Duration::ZERO).await.unwrap_err().is_ambiguous());
    let AcquireOutcome::Granted(grant) = network.direct().acquire(&request).await.unwrap() else {
        panic!("it is ours")
    };
    assert!(grant.already_ours);
    network.let_arrive(1).await;
    assert_eq!(parts.held().await, 2);
    parts.released(&lease).await;
    parts.check_other().await;
}

// verifies: lost-reply, P12
pub async fn a_release_with_a_lost_reply_ends_one_part<N: Network>(network: N) {
    let parts = &Parts::new(network).await;
    let network = &parts.network;
    let (lease, _) = granted(network.through(), &reader(JOB)).await;
    network.lose(Replies);
    assert!(network.through().release(&lease, Duration::ZERO).await.unwrap_err().is_ambiguous());
    assert_eq!(parts.held().await, 1);
    network.heal();
    let again = again(async || network.through().release(&lease, Duration::ZERO).await).await;
    assert!(matches!(again, Release::NotHeld(_)), "{again:?}");
    parts.check_other().await;
}

// verifies: lost-reply, P12
pub async fn a_renewal_with_a_lost_reply_has_renewed<N: Network>(network: N) {
    let parts = &Parts::new(network).await;
    let network = &parts.network;
    let (lease, _) = granted(network.through(), &reader(JOB)).await;
    network.lose(Replies);
    let longer = lease.clone().with_ttl(LONG * 3);
    assert!(network.through().renew(&longer).await.unwrap_err().is_ambiguous());
    let holder = network.direct().inspect(&lease.name).await.unwrap().unwrap();
    assert!(holder.others[0].expires_in.unwrap() > LONG * 2, "{holder}");
    network.heal();
    assert_eq!(again(async || network.through().renew(&lease).await).await, Renewal::Renewed);
    parts.released(&lease).await;
    parts.check_other().await;
}

// verifies: late-request, P12
pub async fn a_mark_that_arrives_late_is_not_set<N: Network>(network: N) {
    let parts = &Parts::new(network).await;
    let direct = parts.network.direct();
    let wait = if direct.capabilities().permits { permit(JOB, 2).with_waits(true) } else { waiting_writer(JOB) };
    parts.held_back(&wait).await;
    let released = direct.release(&wait.lease(None), Duration::ZERO).await.unwrap();
    assert!(matches!(released, Release::NotHeld(_)), "{released:?}");
    parts.network.let_arrive(1).await;
    let (lease, _) = granted(direct, &reader(JOB)).await;
    parts.released(&lease).await;
    parts.check_other().await;
}
