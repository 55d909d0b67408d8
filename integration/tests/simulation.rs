//! The simulation finds nothing in the real core, and every classic mistake that is brought back. `simulate` runs many more seeds.

use integration::sim::{Mistake, search, simulate};

#[test]
fn no_promise_is_broken_in_any_storm() {
    let found = search(0..150, None, None);
    println!("{found}");
    assert!(found.violations.is_empty(), "{found}");
    assert!(found.acquisitions > 8_000 && found.losses > 450, "the storm must hurt, and work go on: {found}");
}

#[track_caller]
fn is_found(mistake: Mistake, seeds: u64) {
    let found = search(0..seeds, Some(mistake), None);
    println!("{mistake}: {found}");
    assert!(!found.violations.is_empty(), "{mistake} was not found in {seeds} seeds");
}

#[test]
fn a_validity_that_counts_from_the_reply_is_found() {
    is_found(Mistake::ValidityFromReply, 60);
}

#[test]
fn a_release_without_comparison_is_found() {
    is_found(Mistake::ReleaseWithoutComparison, 10);
}

#[test]
fn a_takeover_without_the_version_is_found() {
    is_found(Mistake::TakeoverWithoutVersion, 10);
}

#[test]
fn a_token_in_the_deleted_record_is_found() {
    is_found(Mistake::TokenInDeletedRecord, 10);
}

#[test]
fn a_retry_that_takes_its_own_lock_for_foreign_is_found() {
    is_found(Mistake::OwnLockTakenForForeign, 10);
}

#[test]
fn a_seed_replays_the_same_history() {
    for seed in 0..10 {
        let [first, second] = [(), ()].map(|()| simulate(seed, Some(Mistake::ReleaseWithoutComparison), None));
        assert_eq!(first.1, second.1, "seed {seed}");
        assert_eq!(first.0.to_string(), second.0.to_string(), "seed {seed}");
    }
}
