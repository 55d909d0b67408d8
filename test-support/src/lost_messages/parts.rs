//! Cases for each mode that several clients hold at once, while another client holds the lock. The
//! other client keeps its part.

use std::time::Duration;

use lock_core::{
    Mode,
    backend::{AcquireOutcome, AcquireRequest, Admin as _, Backend, Break, Lease, Release, Renewal},
};

use super::{JOB, Network};
use crate::{
    Direction::{Replies, Requests},
    requests::{LONG, again, granted, name, permit, reader, refused, released, renewed, request, waiting_writer},
};

struct Parts<'n, N> {
    network: &'n N,
    mode: Mode,
    /// The part of the other client, which has a direct connection.
    other: Lease,
}

/// Runs a case in each mode that the store has for several holders.
async fn in_each_mode<N: Network>(network: N, case: impl AsyncFn(&Parts<'_, N>)) {
    let has_permits = network.direct().capabilities().permits;
    // One permit more than the cases use, so that a part too many has room.
    for mode in [Mode::Shared].into_iter().chain(has_permits.then(|| permit(JOB, 4).mode)) {
        println!("mode: {mode}");
        let parts = Parts::new(&network, mode).await;
        case(&parts).await;
        parts.check_other().await;
    }
}

impl<'n, N: Network> Parts<'n, N> {
    async fn new(network: &'n N, mode: Mode) -> Self {
        let joins = || request(JOB, LONG).with_mode(mode);
        // Loads what a server loads at its first use, so that a lost reply is never about that.
        let (lease, _) = granted(network.through(), &joins()).await;
        renewed(network.through(), &lease).await;
        let wait = waiting_writer(JOB);
        refused(network.through(), &wait).await;
        not_held(network.through(), &wait).await;
        released(network.through(), &lease).await;
        let (other, _) = granted(network.direct(), &joins()).await;
        Self { network, mode, other }
    }

    fn request(&self) -> AcquireRequest {
        request(JOB, LONG).with_mode(self.mode)
    }

    /// How many hold the lock.
    async fn held(&self) -> u64 {
        self.network.direct().inspect(&name(JOB)).await.unwrap().map_or(0, |holder| holder.count())
    }

    async fn check_other(&self) {
        renewed(self.network.direct(), &self.other).await;
        assert_eq!(self.held().await, 1, "the part of the other client is left");
        released(self.network.direct(), &self.other).await;
        let (lease, _) = granted(self.network.direct(), &request(JOB, LONG)).await;
        released(self.network.direct(), &lease).await;
    }

    /// Sends an acquire that does not arrive yet.
    async fn held_back(&self, request: &AcquireRequest) {
        self.network.hold(Requests);
        assert!(self.network.through().acquire(request).await.unwrap_err().is_ambiguous());
    }

    /// Releases a request that holds nothing, perhaps for the second time.
    async fn given_up(&self, request: &AcquireRequest) {
        let released = self.network.direct().release(&request.lease(None), Duration::ZERO).await.unwrap();
        let may_say_so = self.network.recognizes_a_repeated_release();
        assert!(matches!(released, Release::NotHeld(_)) || may_say_so, "{released:?}");
    }

    async fn released(&self, lease: &Lease) {
        released(self.network.direct(), lease).await;
    }
}

/// Releases a lock that `request` does not hold.
async fn not_held(backend: &dyn Backend, request: &AcquireRequest) {
    let released = backend.release(&request.lease(None), Duration::ZERO).await.unwrap();
    assert!(matches!(released, Release::NotHeld(_)), "{released:?}");
}

// verifies: lost-reply, P12
pub async fn a_part_whose_reply_was_lost_is_found_to_be_ours<N: Network>(network: N) {
    in_each_mode(network, async |parts| {
        let (request, network) = (parts.request(), parts.network);
        network.lose(Replies);
        assert!(network.through().acquire(&request).await.unwrap_err().is_ambiguous());
        network.heal();
        let AcquireOutcome::Granted(grant) = again(async || network.through().acquire(&request).await).await else {
            panic!("others may join")
        };
        assert!(grant.already_ours || network.is_quorum(), "{grant:?}");
        assert_eq!(parts.held().await, 2, "it has one part");
        assert!(grant.token > parts.other.token);
        parts.released(&request.lease(grant.token)).await;
    })
    .await;
}

// verifies: late-request, P12
pub async fn a_part_that_arrives_after_its_release_is_refused<N: Network>(network: N) {
    in_each_mode(network, async |parts| {
        let late = parts.request();
        // Given up once before the request, which is then sent by a retry.
        parts.given_up(&late).await;
        parts.held_back(&late).await;
        parts.given_up(&late).await;
        parts.network.let_arrive(1).await;
        assert_eq!(parts.held().await, 1, "the late acquire was refused");
    })
    .await;
}

// verifies: late-request, P12
pub async fn a_duplicate_after_a_release_adds_no_part<N: Network>(network: N) {
    in_each_mode(network, async |parts| {
        let request = parts.request();
        parts.held_back(&request).await;
        // The retry is faster, by another connection.
        let (lease, _) = granted(parts.network.direct(), &request).await;
        parts.released(&lease).await;
        parts.network.let_arrive(1).await;
        assert_eq!(parts.held().await, 1, "the late acquire was refused");
    })
    .await;
}

// verifies: late-request, P12
pub async fn a_duplicate_after_a_break_adds_no_part<N: Network>(network: N) {
    in_each_mode(network, async |parts| {
        let (request, direct) = (parts.request(), parts.network.direct());
        parts.held_back(&request).await;
        granted(direct, &request).await;
        let part = direct.inspect(&request.name).await.unwrap().unwrap();
        let mut versions = part.others.iter().chain([&part]).filter_map(|holder| holder.version.as_deref());
        let id = request.id.to_string();
        let version = versions.find(|version| version.ends_with(&id)).expect("the part is shown");
        let broken = direct.break_lock(&request.name, version, "an operator").await.unwrap();
        assert_eq!(broken, Break::Broken);
        parts.network.let_arrive(1).await;
        assert_eq!(parts.held().await, 1, "the late acquire was refused");
    })
    .await;
}

// verifies: late-request, P12
pub async fn a_late_rollback_spares_a_part_acquired_again<N: Network>(network: N) {
    in_each_mode(network, async |parts| {
        let (request, network) = (parts.request(), parts.network);
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
    })
    .await;
}

// verifies: lost-reply, P12
pub async fn a_release_with_a_lost_reply_ends_one_part<N: Network>(network: N) {
    in_each_mode(network, async |parts| {
        let network = parts.network;
        let (lease, _) = granted(network.through(), &parts.request()).await;
        network.lose(Replies);
        assert!(network.through().release(&lease, Duration::ZERO).await.unwrap_err().is_ambiguous());
        assert_eq!(parts.held().await, 1);
        network.heal();
        let again = again(async || network.through().release(&lease, Duration::ZERO).await).await;
        assert_eq!(matches!(again, Release::NotHeld(_)), !network.recognizes_a_repeated_release(), "{again:?}");
    })
    .await;
}

// verifies: lost-reply, P12
pub async fn a_renewal_with_a_lost_reply_has_renewed<N: Network>(network: N) {
    in_each_mode(network, async |parts| {
        let network = parts.network;
        let (lease, _) = granted(network.through(), &parts.request()).await;
        network.lose(Replies);
        let longer = lease.clone().with_ttl(LONG * 3);
        assert!(network.through().renew(&longer).await.unwrap_err().is_ambiguous());
        let holder = network.direct().inspect(&lease.name).await.unwrap().unwrap();
        assert!(holder.others[0].expires_in.unwrap() > LONG * 2, "{holder}");
        network.heal();
        assert_eq!(again(async || network.through().renew(&lease).await).await, Renewal::Renewed);
        parts.released(&lease).await;
    })
    .await;
}

// verifies: late-request, P12
pub async fn a_mark_that_arrives_late_is_not_set<N: Network>(network: N) {
    in_each_mode(network, async |parts| {
        let direct = parts.network.direct();
        let wait = match parts.mode {
            Mode::Shared if direct.capabilities().permits => permit(JOB, 2).with_waits(true),
            Mode::Shared => waiting_writer(JOB),
            _ => reader(JOB).with_waits(true),
        };
        parts.held_back(&wait).await;
        not_held(direct, &wait).await;
        parts.network.let_arrive(1).await;
        let (lease, _) = granted(direct, &parts.request()).await;
        parts.released(&lease).await;
    })
    .await;
}
