//! The tests that `docs/verification.md` names exist, and a page that says too little or of a violation is not written.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
};

use integration::{
    sim::Mistake,
    verification::{LEAST_SIMULATED, LEAST_TORTURED, Page, Runs, cases},
};
use serde_json::{Value, json};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The names of all functions in the sources of the workspace.
fn functions(directory: &Path, found: &mut HashSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            found.extend(names.map(str::to_owned));
        }
    }
}

fn all_functions() -> HashSet<String> {
    let mut found = HashSet::new();
    functions(Path::new(ROOT), &mut found);
    found
}

#[test]
fn every_case_of_a_promise_exists() {
    let functions = all_functions();
    let missing: Vec<_> = cases().filter(|case| !functions.contains(*case)).collect();
    assert!(missing.is_empty(), "no test is called {missing:?}");
}

/// As if everything had run and been found.
fn good_page() -> Page {
    let simulated = json!({ "seeds": 1, "acquisitions": LEAST_SIMULATED, "violations": 0 });
    let mut results: BTreeMap<String, Value> = BTreeMap::new();
    for name in ["simulation", "simulation-dynamodb", "torture-files", "torture-redis", "torture-dynamodb"] {
        results.insert(name.into(), simulated.clone());
    }
    for mistake in Mistake::ALL {
        for simulation in ["simulation", "simulation-dynamodb"] {
            results.insert(format!("{simulation}-{mistake}"), json!({ "seeds": 9, "violations": 3 }));
        }
    }
    let ran: String = cases().map(|case| format!("<testcase name=\"a::{case}\"/>")).collect();
    Page { results, runs: Runs::parse(&ran) }
}

#[test]
fn a_page_is_refused_for_a_violation_a_mistake_not_found_a_failure_and_what_did_not_run() {
    let refused = |change: &dyn Fn(&mut Page)| {
        let mut page = good_page();
        change(&mut page);
        page.wrong().join("\n")
    };
    let spoil = |page: &mut Page, name: &str, violations: u64| {
        page.results.get_mut(name).unwrap()["violations"] = violations.into();
    };
    assert_eq!(refused(&|_| {}), "");
    assert!(refused(&|page| spoil(page, "torture-redis", 1)).contains("torture-redis"));
    let unseen = "simulation-dynamodb-ValidityFromReply";
    assert!(refused(&|page| spoil(page, unseen, 0)).contains("not found in the DynamoDB backend"));
    assert!(refused(&|page| drop(page.results.remove("simulation"))).contains("simulation.json is missing"));
    let failed = "<testcase name=\"a_free_lock_is_granted\"><failure/></testcase>";
    assert!(refused(&|page| page.runs = Runs::parse(failed)).contains("a_free_lock_is_granted failed"));
    assert!(refused(&|page| page.runs = Runs::default()).contains("a_free_lock_is_granted did not run"));
}

#[test]
fn a_page_with_too_few_acquisitions_is_not_published() {
    let mut page = good_page();
    assert_eq!(page.too_few(), [""; 0]);
    for (name, least) in [("simulation", LEAST_SIMULATED), ("torture-files", LEAST_TORTURED)] {
        page.results.get_mut(name).unwrap()["acquisitions"] = (least - 1).into();
    }
    let few = page.too_few();
    assert!(few.len() == 2 && few[0].starts_with("simulation") && few[1].starts_with("torture-files"), "{few:?}");
}
