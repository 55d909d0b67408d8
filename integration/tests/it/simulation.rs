//! The simulation finds no violation in the real core, and finds every classic mistake that is
//! brought back. `simulate` runs many more seeds.

use lock_history::Violation;
use test_support::sim::{
    Mistake, On, fingerprint, search, simulate,
    trial::{breaks_no_promise, is_found, replays},
};

#[test]
// verifies: P1, standstill
fn no_promise_is_broken_in_any_storm() {
    let found = breaks_no_promise(150, On::Model);
    assert!(found.acquisitions > 8_000 && found.losses > 450, "too few acquisitions or losses in the storm: {found}");
}

#[test]
// verifies: P2
fn a_validity_that_counts_from_the_reply_is_found() {
    is_found(Mistake::ValidityFromReply, 60, On::Model);
}

#[test]
// verifies: P6
fn a_release_without_comparison_is_found() {
    is_found(Mistake::ReleaseWithoutComparison, 10, On::Model);
}

#[test]
// verifies: P6
fn a_takeover_without_the_version_is_found() {
    is_found(Mistake::TakeoverWithoutVersion, 10, On::Model);
}

#[test]
// verifies: P7
fn a_token_in_the_deleted_record_is_found() {
    is_found(Mistake::TokenInDeletedRecord, 10, On::Model);
}

#[test]
// verifies: P5
fn a_retry_that_takes_its_own_lock_for_foreign_is_found() {
    is_found(Mistake::OwnLockTakenForForeign, 10, On::Model);
}

#[test]
// verifies: P12
fn no_promise_of_modes_and_queues_is_broken_in_any_storm() {
    let found = breaks_no_promise(150, On::Memory);
    assert!(found.acquisitions > 8_000 && found.losses > 450, "too few acquisitions or losses in the storm: {found}");
}

#[test]
// verifies: P12
fn a_store_that_ignores_its_queue_is_found() {
    is_found(Mistake::IgnoresQueue, 20, On::Memory);
}

#[test]
// verifies: P12
fn a_store_that_takes_a_writer_for_a_reader_is_found() {
    is_found(Mistake::WriterAmongReaders, 20, On::Memory);
}

#[test]
// verifies: P12
fn a_store_with_one_permit_too_many_is_found() {
    is_found(Mistake::OnePermitMore, 60, On::Memory);
}

#[test]
// verifies: P6, P12
fn a_release_that_ends_all_parts_is_found() {
    is_found(Mistake::ReleaseOfAllParts, 20, On::Memory);
}

#[test]
// verifies: P7
fn a_hand_over_without_reserved_tokens_is_found() {
    is_found(Mistake::ReservesNoTokens, 20, On::Memory);
}

#[test]
// verifies: P12
fn the_mistakes_of_exclusive_locks_are_found_in_all_modes() {
    let of_all_modes = [
        (Mistake::ValidityFromReply, 100),
        (Mistake::ReleaseWithoutComparison, 20),
        (Mistake::OwnLockTakenForForeign, 20),
    ];
    for (mistake, seeds) in of_all_modes {
        is_found(mistake, seeds, On::Memory);
    }
}

#[test]
fn a_mistake_is_found_only_by_what_it_breaks() {
    // Writers that it lets in early also pass the queue.
    let mistake = Mistake::ReleaseOfAllParts;
    let found = search(0..20, Some(mistake), On::Memory);
    let own = |violation: &Violation| mistake.properties().contains(&violation.property);
    assert!(!found.violations.is_empty() && found.violations.iter().all(|(_, violation)| own(violation)), "{found}");
    let breaks_a_promise = |seed: &u64| !simulate(*seed, Some(mistake), On::Memory).0.violations.is_empty();
    let violated = (0..20).filter(breaks_a_promise).count();
    assert!(violated > found.violations.len(), "in some seeds it breaks only other promises: {violated}");
}

#[test]
fn a_seed_replays_the_same_history() {
    replays(10, Some(Mistake::ReleaseWithoutComparison), On::Model);
}

/// `verify` runs release builds, and their seeds must replay in the debug builds of these tests.
/// A change of what the core or the simulation does in a run changes the hashes.
#[test]
fn a_seed_has_one_history_in_all_builds() {
    let hashes = [0, 1, 2].map(|seed| format!("{:016x}", fingerprint(seed, None, On::Model)));
    println!("{hashes:?}");
    let advice = "if the change is intended, compare `simulate --hash` of a debug and a release build, and put it here";
    assert_eq!(hashes, ["a3ba4c74fe83d5c5", "5407822fde3c5bb4", "c0e46156df92a30f"], "{advice}");
}
