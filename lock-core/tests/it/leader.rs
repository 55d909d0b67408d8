//! Leader elections on a paused clock: outages, frozen leaders, grace time, and dropped calls.
//!
//! The conformance suite has the cases that apply to every store.

use std::{pin::pin, time::Duration};

use crate::fixture::*;
use futures_util::{StreamExt as _, poll};
use lock_core::{
    Error, ErrorKind, LeaderElection, Leadership, LossReason, Lost, Operation, backend::Release, faults::Fault,
};
use tokio::time::{Instant, sleep};

fn candidate(fixture: &Fixture) -> LeaderElection {
    LeaderElection::new(fixture.locker.lock(NAME))
}

async fn elected(election: &mut LeaderElection) {
    let event = election.next().await;
    assert!(matches!(event, Ok(Leadership::Elected(Some(_)))), "{event:?}");
}

fn lost(event: Result<Leadership, Error>) -> Lost {
    match event {
        Ok(Leadership::Lost(lost)) => lost,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_candidate_survives_an_outage_of_any_length() {
    let fixture = Fixture::new();
    fixture.network.always(Operation::Acquire, Fault::LoseRequest);
    let mut election = candidate(&fixture);
    tokio::select! {
        event = election.next() => panic!("{event:?}"),
        () = sleep(secs(3600)) => {}
    }
    fixture.network.always(Operation::Acquire, None);
    elected(&mut election).await;
}

#[tokio::test(start_paused = true)]
async fn a_frozen_leader_detects_its_loss_by_itself() {
    let fixture = Fixture::new();
    let mut election = candidate(&fixture);
    elected(&mut election).await;
    fixture.clock.suspend(TTL);
    assert!(election.leader().is_none());
    let lost = lost(election.next().await);
    assert!(matches!(lost.reason, LossReason::FrozenFor(_)), "{lost}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_keeps_the_lock_through_its_grace_time() {
    let fixture = Fixture::with(|builder| builder.grace(secs(5)));
    let mut election = candidate(&fixture);
    let started = Instant::now();
    elected(&mut election).await;
    // Refused, not lost: a hung renewal might leave no time for a retry within the lease.
    fixture.network.always(Operation::Renew, Fault::Refuse(ErrorKind::Unavailable));
    lost(election.next().await);
    assert_close(started.elapsed(), VALID - secs(5));
    assert!(election.leader().is_none(), "a leader in its grace time starts no new work");
    assert!(!fixture.is_free().await, "the lock is kept while the leader finishes its work");
    // The store recovers within the lease, so renewals would succeed from now on.
    fixture.network.always(Operation::Renew, None);
    sleep(10 * TTL).await;
    assert!(!fixture.is_free().await, "the leader has not stopped yet");
    elected(&mut election).await;
    assert_eq!(fixture.network.sent(Operation::Release), 1, "only the previous term was released");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_keeps_the_candidates_queue_position() {
    let fixture = Fixture::new();
    let holder = fixture.guard().await;
    let mut election = candidate(&fixture);
    let mut behind = pin!(fixture.locker.acquire(NAME));
    assert!(poll!(pin!(election.next())).is_pending());
    assert!(poll!(behind.as_mut()).is_pending());
    for _ in 0..1_000 {
        assert!(poll!(pin!(election.next())).is_pending());
    }
    assert_eq!(fixture.network.sent(Operation::Acquire), 1, "only the holder sent a request");
    release(holder).await;
    elected(&mut election).await;
    assert!(poll!(behind).is_pending(), "the candidate was first in the queue");
}

#[tokio::test(start_paused = true)]
async fn a_new_campaign_follows_a_lost_term() {
    let fixture = Fixture::with(|builder| builder.max_hold(secs(60)));
    let mut election = candidate(&fixture);
    let first = election.campaign().await.unwrap().token();
    assert_eq!(election.campaign().await.unwrap().token(), first, "the candidate already leads");
    let lost = election.leader().unwrap().run(std::future::pending::<()>()).await.unwrap_err();
    assert_eq!(lost.reason, LossReason::MaxHold);
    assert!(election.campaign().await.unwrap().token() > first);
    assert_eq!(election.resign().await.unwrap(), Release::Released);
}

#[tokio::test(start_paused = true)]
async fn leadership_events_alternate_between_elected_and_lost() {
    let fixture = Fixture::with(|builder| builder.max_hold(secs(60)));
    let mut election = candidate(&fixture);
    let events: Vec<_> = election.events().take(5).collect().await;
    let led = events.iter().map(|event| matches!(event, Ok(Leadership::Elected(_)))).collect::<Vec<_>>();
    assert_eq!(led, [true, false, true, false, true]);
}

#[tokio::test(start_paused = true)]
async fn resigning_a_candidacy_ends_the_campaign() {
    let fixture = Fixture::new();
    let holder = fixture.guard().await;
    let mut election = candidate(&fixture);
    assert!(poll!(pin!(election.next())).is_pending());
    assert_eq!(election.resign().await.unwrap(), Release::NotHeld(None));
    release(holder).await;
    sleep(Duration::from_secs(60)).await;
    assert!(fixture.is_free().await);
    elected(&mut election).await;
}
