//! Cases of [`LeaderElection`].

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures_util::{future::join_all, poll};
use tokio::time::{Instant, timeout};

use crate::{
    ErrorKind, LeaderElection, Leadership, Locker, LockerBuilder, Operation,
    backend::{Backend, Release},
    testing::{
        TestClock,
        faults::{Fault, Faulty},
        harness::{Bench, granted_soon},
    },
    types::LockName,
};

/// Longer than any wait in a case, even on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Creates a candidate with its own client and the default timing.
async fn candidate(bench: &Bench<'_>, name: &LockName) -> LeaderElection {
    LeaderElection::new(locker(bench.client().await).build().expect("the defaults fit").lock(name.as_str()))
}

/// Uses the runtime's clock, which a subject may pause.
fn locker(client: Arc<dyn Backend>) -> LockerBuilder {
    Locker::builder(client).clock(Arc::new(TestClock::new()))
}

async fn elected(election: &mut LeaderElection) {
    let event = timeout(PATIENCE, election.next()).await.expect("elected in the end").expect("the store answers");
    assert!(matches!(event, Leadership::Elected(_)), "{event:?}");
    assert!(election.leader().is_some(), "an elected candidate is the leader");
}

// verifies: P1
pub(super) async fn exactly_one_of_many_candidates_leads(bench: &Bench<'_>) {
    let name = &bench.name("many");
    let leading = &AtomicBool::new(false);
    join_all((0..5).map(|_| async move {
        let mut election = candidate(bench, name).await;
        for _ in 0..3 {
            elected(&mut election).await;
            assert!(!leading.swap(true, Ordering::SeqCst), "two candidates lead at the same time");
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            leading.store(false, Ordering::SeqCst);
            assert_eq!(election.resign().await.expect("the store answers"), Release::Released);
            assert!(election.leader().is_none(), "a resigned candidate is not the leader");
        }
    }))
    .await;
}

// verifies: P1
pub(super) async fn an_isolated_leader_stops_before_the_next_starts(bench: &Bench<'_>) {
    let name = bench.name("cut");
    let network = Faulty::around(bench.client().await);
    let locker = locker(Arc::new(network.clone())).ttl(bench.subject.ttl()).build().expect("the ttl fits");
    let mut old = LeaderElection::new(locker.lock(name.as_str()));
    elected(&mut old).await;
    let term = old.leader().and_then(crate::Guard::token);
    network.always(Operation::Renew, Fault::LoseRequest);
    network.always(Operation::Release, Fault::LoseRequest);

    let mut next = candidate(bench, &name).await;
    let deadline = Instant::now() + PATIENCE;
    let successor = loop {
        match poll!(pin!(next.next())) {
            Poll::Ready(event) => break event.expect("the store answers"),
            Poll::Pending => bench.subject.pass(bench.subject.ttl() / 20).await,
        }
        assert!(Instant::now() < deadline, "no candidate took over before the deadline");
    };
    // The old leader's task may not have run yet, but every call already reports the loss.
    assert!(old.leader().is_none(), "two candidates lead at the same time");
    let told = poll!(pin!(old.next()));
    assert!(matches!(told, Poll::Ready(Ok(Leadership::Lost(_)))), "{told:?}");
    let Leadership::Elected(token) = successor else { panic!("{successor:?}") };
    assert!(token > term || term.is_none(), "{token:?} after {term:?}");
    // The old leader stays a candidate, and is elected again on its next turn.
    network.always(Operation::Release, None);
    network.always(Operation::Renew, None);
    assert!(poll!(pin!(old.next())).is_pending());
    assert_eq!(next.resign().await.expect("the store answers"), Release::Released);
    elected(&mut old).await;
}

pub(super) async fn a_resigning_leader_is_replaced_immediately(bench: &Bench<'_>) {
    let name = bench.name("resigns");
    let (mut first, mut second) = (candidate(bench, &name).await, candidate(bench, &name).await);
    elected(&mut first).await;
    assert!(poll!(pin!(second.next())).is_pending(), "two candidates lead at the same time");
    assert_eq!(first.resign().await.expect("the store answers"), Release::Released);
    // `second` keeps its place in the queue, so it waits far less than the ttl of 30 s.
    let started = Instant::now();
    elected(&mut second).await;
    assert!(started.elapsed() < Duration::from_secs(20), "the next leader had to wait for the ttl");
    assert_eq!(second.leader().and_then(crate::Guard::crashed_holder), None, "a resignation is not a crash");
    assert_eq!(first.resign().await.expect("the store answers"), Release::NotHeld(None));
}

pub(super) async fn a_campaign_survives_retryable_store_errors(bench: &Bench<'_>) {
    let name = bench.name("errors");
    let network = Faulty::around(bench.client().await);
    for kind in [ErrorKind::Unavailable, ErrorKind::Throttled, ErrorKind::Timeout] {
        network.next(Operation::Acquire, Fault::Refuse(kind));
        network.next(Operation::Acquire, Fault::FailAfter(kind));
    }
    let locker = locker(Arc::new(network.clone())).build().expect("the defaults fit");
    let mut election = LeaderElection::new(locker.lock(name.as_str()));
    elected(&mut election).await;
    assert!(
        election.leader().is_some_and(|guard| guard.crashed_holder().is_none()),
        "a lost reply of its own is not a crash"
    );
    network.next(Operation::Acquire, Fault::Refuse(ErrorKind::PermissionDenied));
    assert_eq!(election.resign().await.expect("the store answers"), Release::Released);
    let error = election.next().await.expect_err("the error cannot be retried");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    elected(&mut election).await;
}

// verifies: cancelled
pub(super) async fn a_dropped_candidate_leaves_no_leader_behind(bench: &Bench<'_>) {
    let other: Arc<dyn Backend> = bench.client().await;
    for polls in 1..50 {
        let name = bench.name(&polls.to_string());
        let mut election = candidate(bench, &name).await;
        let mut was_elected = false;
        // Each poll is a new call: the next call continues the work of a dropped one.
        for _ in 0..polls {
            was_elected = matches!(poll!(pin!(election.next())), Poll::Ready(Ok(Leadership::Elected(_))));
            if was_elected {
                break;
            }
            // A request to a real store takes time: each round drops it a little later.
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        drop(election);
        granted_soon(&other, &bench.request(&name)).await;
        if was_elected {
            return;
        }
    }
}
