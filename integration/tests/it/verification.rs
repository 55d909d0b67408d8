//! `docs/verification.md` is of this code: it names the tests that there are, for every promise, and its figures are enough.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
};

use integration::verification::{FAULTS, LEAST_SIMULATED, LEAST_TORTURED, PROMISES, Page, Runs, cases};
use serde_json::{Value, json};
use test_support::sim::Mistake;

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

fn published() -> String {
    let page = Path::new(ROOT).join("docs/verification.md");
    fs::read_to_string(page).expect("./verify has written it")
}

/// The rows of the table whose first column has that heading, without it.
fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let mut lines = page.lines().skip_while(|line| !line.starts_with(&format!("| {heading} |")));
    assert!(lines.next().is_some(), "there is no table of each {heading}");
    lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect()
}

/// What stands in code and could be the name of a test.
fn named(text: &str) -> Vec<&str> {
    let is_name = |word: &&str| word.contains('_') && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    text.split('`').skip(1).step_by(2).filter(is_name).collect()
}

fn number(cell: &str) -> u64 {
    cell.replace(',', "").parse().unwrap_or_else(|_| panic!("{cell:?} is no number"))
}

#[test]
fn the_page_has_every_promise_and_every_fault_with_all_of_their_cases() {
    let page = published();
    let promises = table(&page, "promise");
    assert_eq!(promises.len(), PROMISES.len());
    for (row, promise) in promises.iter().zip(PROMISES) {
        assert_eq!(row[0], format!("{} {}", promise.id, promise.text));
        assert_eq!(named(&row[1]), promise.cases, "{}", promise.id);
        assert_eq!(row[4], "0", "{}", promise.id);
    }
    let faults = table(&page, "what goes wrong");
    assert_eq!(faults.len(), FAULTS.len());
    for (row, fault) in faults.iter().zip(FAULTS) {
        assert_eq!((row[0].as_str(), named(&row[1])), (fault.text, fault.cases.to_vec()));
    }
}

#[test]
fn the_page_names_no_test_that_is_gone() {
    let (page, functions) = (published(), all_functions());
    let gone: Vec<_> = named(&page).into_iter().filter(|name| !functions.contains(*name)).collect();
    assert!(gone.is_empty(), "no test is called {gone:?}");
}

#[test]
fn the_page_has_enough_acquisitions_no_violation_and_every_mistake() {
    let page = published();
    let runs = table(&page, "run");
    let of = |what: &str| runs.iter().find(|row| row[0].starts_with(what)).unwrap_or_else(|| panic!("no {what}"));
    assert!(number(&of("simulation of the core")[1]) >= LEAST_SIMULATED);
    for run in ["simulation of the DynamoDB backend", "torture of files", "torture of Redis", "torture of DynamoDB"] {
        assert!(number(&of(run)[1]) >= LEAST_TORTURED, "{run}");
    }
    for row in &runs {
        assert_eq!(row[6], "0", "violations of {}", row[0]);
    }
    let mistakes = table(&page, "mistake");
    let brought_back: Vec<_> = mistakes.iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    assert_eq!(brought_back, Mistake::ALL.map(|mistake| mistake.to_string()));
    for row in &mistakes {
        for cell in &row[1..] {
            let (found, of) = cell.split_once(" of ").unwrap();
            assert!((1..=number(of)).contains(&number(found)), "{row:?}");
        }
    }
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
