//! The backend as it is, SDK included, in the simulation of `test-support`: on clients that are
//! frozen, suspended, killed, cut off and lied to about the time, over a model of DynamoDB. The
//! locks have all modes, and waiters a queue. The example `simulate_dynamodb` runs many more seeds.

mod by_hand;
mod collection;
mod exchange;
mod fair;
mod marks;
mod meanwhile;
mod model;
mod model_server;
mod read_first;
mod sdk;
mod simulated;
mod takeover;
mod writes;

use simulated::SimulatedDynamo;
use test_support::sim::{
    Mistake,
    trial::{breaks_no_promise, is_found, replays},
};

#[test]
// verifies: P1, P12, standstill
fn no_promise_is_broken_in_any_storm() {
    let found = breaks_no_promise(16, Some(&SimulatedDynamo));
    assert!(found.acquisitions > 480 && found.losses > 16, "the storm must hurt, and work go on: {found}");
    let ways = [found.joined, found.queued, found.handed_over];
    assert!(ways.iter().all(|times| *times > 4), "the locks are acquired in all ways: {found}");
}

#[test]
// verifies: P2
fn a_validity_that_counts_from_the_reply_is_found() {
    is_found(Mistake::ValidityFromReply, 400, Some(&SimulatedDynamo));
}

#[test]
// verifies: P6
fn a_release_without_comparison_is_found() {
    is_found(Mistake::ReleaseWithoutComparison, 20, Some(&SimulatedDynamo));
}

#[test]
// verifies: P6
fn a_takeover_without_the_version_is_found() {
    is_found(Mistake::TakeoverWithoutVersion, 40, Some(&SimulatedDynamo));
}

#[test]
// verifies: P7
fn a_token_in_the_deleted_record_is_found() {
    is_found(Mistake::TokenInDeletedRecord, 20, Some(&SimulatedDynamo));
}

#[test]
// verifies: P5
fn a_retry_that_takes_its_own_lock_for_foreign_is_found() {
    is_found(Mistake::OwnLockTakenForForeign, 20, Some(&SimulatedDynamo));
}

#[test]
// verifies: P12
fn a_store_that_ignores_its_queue_is_found() {
    is_found(Mistake::IgnoresQueue, 20, Some(&SimulatedDynamo));
}

#[test]
// verifies: P12
fn a_store_that_takes_a_writer_for_a_reader_is_found() {
    is_found(Mistake::WriterAmongReaders, 20, Some(&SimulatedDynamo));
}

#[test]
// verifies: P12
fn a_store_with_one_permit_too_many_is_found() {
    is_found(Mistake::OnePermitMore, 40, Some(&SimulatedDynamo));
}

#[test]
// verifies: P6, P12
fn a_release_that_ends_all_parts_is_found() {
    is_found(Mistake::ReleaseOfAllParts, 20, Some(&SimulatedDynamo));
}

#[test]
fn a_seed_replays_the_same_history() {
    replays(6, None, Some(&SimulatedDynamo));
}
