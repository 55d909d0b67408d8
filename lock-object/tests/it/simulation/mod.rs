//! The backend as it is, `object_store` included, in the simulation of `test-support`: on clients
//! that are frozen, suspended, killed, cut off and lied to about the time, over a model of S3. The
//! example `simulate_objects` runs many more seeds.

mod by_hand;
mod model;
mod simulated;

use std::time::Duration;

use simulated::SimulatedObjects;
use test_support::sim::{
    Mistake, search,
    trial::{breaks_no_promise, is_found, replays},
};

#[test]
// verifies: P1, standstill
fn no_promise_is_broken_in_any_storm() {
    let found = breaks_no_promise(16, Some(&SimulatedObjects::default()));
    assert!(found.acquisitions > 320 && found.losses > 12, "the storm must hurt, and work go on: {found}");
}

#[test]
// verifies: P2
fn a_validity_that_counts_from_the_reply_is_found() {
    is_found(Mistake::ValidityFromReply, 400, Some(&SimulatedObjects::default()));
}

#[test]
// verifies: P6
fn a_release_without_comparison_is_found() {
    is_found(Mistake::ReleaseWithoutComparison, 40, Some(&SimulatedObjects::default()));
}

#[test]
// verifies: P6
fn a_takeover_without_the_version_is_found() {
    is_found(Mistake::TakeoverWithoutVersion, 20, Some(&SimulatedObjects::default()));
}

#[test]
// verifies: P7
fn a_token_in_the_deleted_record_is_found() {
    is_found(Mistake::TokenInDeletedRecord, 20, Some(&SimulatedObjects::default()));
}

#[test]
// verifies: P5
fn a_retry_that_takes_its_own_lock_for_foreign_is_found() {
    is_found(Mistake::OwnLockTakenForForeign, 20, Some(&SimulatedObjects::default()));
}

#[test]
// verifies: P8
fn a_skew_below_that_of_the_servers_is_found() {
    let careless = SimulatedObjects { skew: Duration::ZERO };
    let breaks = |seed: &u64| !search(*seed..seed + 1, None, Some(&careless)).violations.is_empty();
    let first = (0..400).find(breaks).expect("two clients hold one lock in some seed");
    println!("found in seed {first}");
}

#[test]
fn a_seed_replays_the_same_history() {
    replays(3, None, Some(&SimulatedObjects::default()));
}
