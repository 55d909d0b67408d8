//! Checks that `docs/verification.md` belongs to this code: each row names the current tests, and
//! enough was checked.

use std::{collections::BTreeMap, fs};

use integration::verification::{
    Cases, HISTORIES, LEAST_SIMULATED, LEAST_TORTURED, Page, Runs, TEMPLATE, all_brought_back,
};
use lock_history::Property;
use serde_json::{Value, json};

const PUBLISHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/verification.md");

fn published() -> String {
    fs::read_to_string(PUBLISHED).expect("./verify has written it")
}

/// Returns a page as if all tests had passed, and all mistakes had been found.
fn good_page() -> Page {
    let mut results: BTreeMap<String, Value> = BTreeMap::new();
    for name in HISTORIES {
        let figures = [
            "lost",
            "killed",
            "frozen",
            "cut_off",
            "seeds",
            "seconds",
            "clocks_set",
            "messages",
            "violations",
            "shared",
            "permits",
            "queued",
            "handed_over",
        ];
        let mut report: Value = figures.map(|figure| (figure.to_owned(), json!(0))).into_iter().collect();
        report["acquisitions"] = LEAST_SIMULATED.into();
        results.insert(name.into(), report);
    }
    for mistake in all_brought_back() {
        results.insert(mistake, json!({ "seeds": 9, "violations": 3 }));
    }
    let cases = Cases::gather(Page::keys()).expect("every key has a test, and every test has a known key");
    let ran: String = cases.all().into_iter().map(|case| format!("<testcase name=\"a::{case}\"/>")).collect();
    Page { cases, results, runs: Runs::parse(&ran) }
}

#[test]
fn the_page_names_the_current_tests_in_each_row() {
    // The number of runs of a case is a figure, too.
    let without_figures =
        |page: &str| page.replace([',', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'], "").replace(" (×)", "");
    assert_eq!(without_figures(&published()), without_figures(&good_page().to_string()));
}

#[test]
fn the_promises_name_exactly_the_rules_of_the_history() {
    let mut named: Vec<_> = TEMPLATE.lines().filter_map(|row| row.split_once("rules of the history: ")).collect();
    named.sort_unstable();
    let mut rules: Vec<_> =
        named.iter().flat_map(|(_, rules)| rules.split(" |").next()).flat_map(|rules| rules.split(", ")).collect();
    rules.sort_unstable();
    rules.dedup();
    let mut all = [
        Property::Exclusion,
        Property::TokensRise,
        Property::NoOldWrite,
        Property::OwnLockIsKnown,
        Property::Obtainable,
        Property::InOrder,
        Property::KeptToTheEnd,
    ]
    .map(Property::as_str);
    all.sort_unstable();
    assert_eq!(rules, all);
}

/// Returns the rows of the table whose first column has that heading.
fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let mut lines = page.lines().skip_while(|line| !line.starts_with(&format!("| {heading} |")));
    assert!(lines.next().is_some(), "the page has no table with the heading {heading}");
    lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect()
}

fn number(cell: &str) -> u64 {
    cell.replace(',', "").parse().unwrap_or_else(|_| panic!("{cell:?} is not a number"))
}

#[test]
fn the_page_has_no_violation_and_enough_acquisitions() {
    let page = published();
    for promise in table(&page, "promise") {
        assert_eq!(promise[4], "0", "violations of {}", promise[0]);
    }
    let runs = table(&page, "run");
    let least = |run: &str| if run.starts_with("simulation of the core") { LEAST_SIMULATED } else { LEAST_TORTURED };
    for row in &runs {
        assert!(number(&row[1]) >= least(&row[0]), "acquisitions of {}", row[0]);
        assert_eq!(row[6], "0", "violations of {}", row[0]);
    }
    let tortured = runs.iter().filter(|row| row[0].starts_with("torture of "));
    let seconds: Vec<_> = tortured.map(|row| number(row[0].rsplit(' ').nth(1).unwrap())).collect();
    assert!(seconds.len() == 4 && seconds.iter().all(|seconds| *seconds >= 600), "{seconds:?}");
    for row in table(&page, "torture of") {
        let has_queue = !row[0].contains("no queue");
        let mut ways = row[1..].iter().enumerate().filter(|(way, _)| *way != 2 || has_queue);
        assert!(ways.all(|(_, cell)| number(cell) > 0), "{row:?}");
    }
    for row in table(&page, "mistake").into_iter().chain(table(&page, "mistake among all modes")) {
        for cell in &row[1..] {
            let (found, of) = cell.split_once(" of ").unwrap();
            assert!((1..=number(of)).contains(&number(found)), "{row:?}");
        }
    }
}

#[test]
fn a_page_with_violations_failures_or_gaps_is_refused() {
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
    assert_eq!(all_brought_back().count(), 23);
    for unseen in all_brought_back() {
        assert!(refused(&|page| spoil(page, &unseen, 0)).contains(&format!("{unseen}: the mistake was not found")));
    }
    assert!(refused(&|page| drop(page.results.remove("simulation"))).contains("simulation.json is missing"));
    let unknown = |page: &mut Page| drop(page.results.get_mut("torture-files").unwrap()["killed"].take());
    assert!(refused(&unknown).contains("there is no figure torture-files.killed"));
    let failed = "<testcase name=\"acquiring_a_free_lock_grants_it\"><failure/></testcase>";
    assert!(refused(&|page| page.runs = Runs::parse(failed)).contains("acquiring_a_free_lock_grants_it failed"));
    assert!(refused(&|page| page.runs = Runs::default()).contains("acquiring_a_free_lock_grants_it did not run"));
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
