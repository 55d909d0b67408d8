//! The conformance suite catches bugs: every bug fails a case, and every case fails for a bug.

mod buggy;
mod bugs;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use buggy::Buggy;
use bugs::{BUGS, Bug};
use lock_core::testing;

macro_rules! names {
    ($($module:ident :: $case:ident $needs:tt;)*) => { &[$(stringify!($case)),*] };
}

const CASES: &[&str] = lock_core::conformance_cases! { [names] };

/// Returns whether the case fails for a backend with `bug`. A case that hangs has failed.
fn fails(case: &'static str, bug: Bug) -> bool {
    let mut exceptions = vec![("an_open_descriptor_keeps_the_lock_held", "no lock lives in a descriptor")];
    if bug == Bug::DeclaresNoMode {
        exceptions.push(("modes", "it declares none"));
    }
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let subject = Buggy::new(bug);
            let day = Duration::from_secs(24 * 3600);
            tokio::time::timeout(day, testing::run(case, &subject, &exceptions)).await.expect("ended");
        });
    };
    catch_unwind(AssertUnwindSafe(run)).is_err()
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "there is no case and no module an_open_descriptor_keeps_the_lock_hold")]
async fn an_exception_for_an_unknown_case_fails() {
    let subject = Buggy::new(Bug::None);
    testing::run(CASES[0], &subject, &[("an_open_descriptor_keeps_the_lock_hold", "misspelt")]).await;
}

#[test]
// verifies: P11, suite-sees
fn every_case_passes_without_bugs_and_catches_one() {
    // Failures are expected here; their messages would only clutter the output.
    std::panic::set_hook(Box::new(|_| {}));
    let failing: Vec<_> = CASES.iter().copied().filter(|case| fails(case, Bug::None)).collect();
    let mut found: BTreeMap<&str, Vec<Bug>> = BTreeMap::new();
    for case in CASES.iter().copied().filter(|case| *case != "an_open_descriptor_keeps_the_lock_held") {
        found.insert(case, BUGS.iter().copied().filter(|bug| fails(case, *bug)).collect());
    }
    let _ = std::panic::take_hook();
    assert_eq!(failing, [""; 0], "cases that fail without a bug");
    let mut missed = BUGS.to_vec();
    for (case, bugs) in &found {
        println!("{case}: {bugs:?}");
        missed.retain(|bug| !bugs.contains(bug));
    }
    assert_eq!(missed, [], "bugs that no case catches");
    let blind: Vec<_> = found.iter().filter(|(_, bugs)| bugs.is_empty()).map(|(case, _)| *case).collect();
    assert_eq!(blind, [""; 0], "cases that catch no bug");
}

/// Returns the bullets of the trait's documentation, each on one line.
fn bullets() -> Vec<String> {
    let mut bullets: Vec<String> = Vec::new();
    let contract = [
        include_str!("../../src/backend/mod.rs"),
        include_str!("../../src/backend/admin.rs"),
        include_str!("../../src/backend/process_bound.rs"),
        include_str!("../../src/backend/relay.rs"),
    ];
    for line in contract.iter().flat_map(|text| text.lines()) {
        let Some(text) = line.trim().strip_prefix("/// ") else { continue };
        match (text.strip_prefix("- "), bullets.last_mut()) {
            (Some(first), _) => bullets.push(first.to_owned()),
            (None, Some(bullet)) if text.starts_with("  ") => *bullet += text,
            _ => {}
        }
    }
    bullets
}

#[test]
fn every_bullet_of_the_contract_names_its_cases() {
    let bullets = bullets();
    assert!(bullets.len() > 20, "{bullets:#?}");
    for bullet in bullets {
        let named: Vec<_> = bullet.split('`').skip(1).step_by(2).filter(|word| word.matches('_').count() > 1).collect();
        assert!(!named.is_empty(), "no case checks this: {bullet}");
        let gone: Vec<_> = named.iter().filter(|name| !CASES.contains(*name)).collect();
        assert!(gone.is_empty(), "there is no case {gone:?}: {bullet}");
    }
}
