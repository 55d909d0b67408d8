//! The checks that the tests of every simulation share.

use super::{Found, Mistake, On, fingerprint, search};

/// Runs the first `seeds` without a mistake.
///
/// # Panics
/// If a seed breaks a promise.
#[track_caller]
pub fn breaks_no_promise<'a>(seeds: u64, on: impl Into<On<'a>>) -> Found {
    let found = search(0..seeds, None, on.into());
    println!("{found}");
    assert!(found.violations.is_empty(), "{found}");
    found
}

/// Brings `mistake` back, and runs `seeds` until one finds it, by a violation of one of its
/// [properties](Mistake::properties).
///
/// # Panics
/// If no seed finds it.
#[track_caller]
pub fn is_found<'a>(mistake: Mistake, seeds: u64, on: impl Into<On<'a>>) {
    let on = on.into();
    let sees = |seed: &u64| !search(*seed..seed + 1, Some(mistake), on).violations.is_empty();
    let first = (0..seeds).find(sees).unwrap_or_else(|| panic!("{mistake} was not found in {seeds} seeds"));
    println!("{mistake} was found in seed {first}");
}

/// Runs each of the first `seeds` twice.
///
/// # Panics
/// If the second run differs from the first.
#[track_caller]
pub fn replays<'a>(seeds: u64, mistake: Option<Mistake>, on: impl Into<On<'a>>) {
    let on = on.into();
    for seed in 0..seeds {
        let [first, second] = [(), ()].map(|()| fingerprint(seed, mistake, on));
        assert_eq!(first, second, "seed {seed}");
    }
}
