//! The backend as it is, SDK included, in the simulation of `integration`: on clients that are frozen, suspended, killed, cut off and lied to
//! about the time, over a model of DynamoDB. Many more seeds: `SEEDS=10000 cargo test --release -p lock-dynamo --test simulation -- --nocapture`.

mod by_hand;
mod model;
mod takeover;
mod transport;
mod writes;

use integration::sim::{Mistake, search, simulate};
use transport::SimulatedDynamo;

/// How many seeds, unless the environment asks for more.
fn seeds(few: u64) -> u64 {
    std::env::var("SEEDS").map_or(few, |seeds| seeds.parse().expect("SEEDS is a number"))
}

#[test]
fn no_promise_is_broken_in_any_storm() {
    let seeds = seeds(12);
    let found = search(0..seeds, None, Some(&SimulatedDynamo));
    println!("{found}");
    assert!(found.violations.is_empty(), "{found}");
    assert!(found.acquisitions > 30 * seeds && found.losses > seeds, "the storm must hurt, and work go on: {found}");
}

/// One of `seeds` at least sees the mistake. The first that does is enough.
#[track_caller]
fn is_found(mistake: Mistake, seeds: impl Iterator<Item = u64> + Clone) {
    let sees = |seed: &u64| !search(*seed..seed + 1, Some(mistake), Some(&SimulatedDynamo)).violations.is_empty();
    let first = seeds.clone().position(|seed| sees(&seed));
    let first = first.unwrap_or_else(|| panic!("{mistake} was not found in {} seeds", seeds.count()));
    println!("{mistake}: found after {first} seeds that did not see it");
}

#[test]
fn a_validity_that_counts_from_the_reply_is_found() {
    is_found(Mistake::ValidityFromReply, 0..400);
}

#[test]
fn a_release_without_comparison_is_found() {
    is_found(Mistake::ReleaseWithoutComparison, 0..20);
}

#[test]
fn a_takeover_without_the_version_is_found() {
    is_found(Mistake::TakeoverWithoutVersion, 0..40);
}

#[test]
fn a_token_in_the_deleted_record_is_found() {
    is_found(Mistake::TokenInDeletedRecord, 0..20);
}

#[test]
fn a_retry_that_takes_its_own_lock_for_foreign_is_found() {
    is_found(Mistake::OwnLockTakenForForeign, 0..20);
}

#[test]
fn a_seed_replays_the_same_history() {
    for seed in 0..3 {
        let [first, second] = [(), ()].map(|()| simulate(seed, None, Some(&SimulatedDynamo)));
        assert_eq!(first.1, second.1, "seed {seed}");
        assert_eq!(first.0.to_string(), second.0.to_string(), "seed {seed}");
    }
}
