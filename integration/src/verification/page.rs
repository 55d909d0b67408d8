//! Writes `docs/verification.md` from the reports of the runs. Only its text is written by hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::Path,
    slice,
};

use serde_json::Value;
use test_support::sim::Mistake;

use super::{Cases, Runs};

/// The template of the page. `{cases KEY}` is replaced by tests, `{REPORT.FIELD}` by a figure, and
/// `{mistakes}` and `{mistakes-of-modes}` by rows of a table. The report `all` is the sum of
/// [`HISTORIES`], and `simulations` the sum of those that are simulated.
pub const TEMPLATE: &str = include_str!("page.md.in");

/// The reports of histories: of the simulations, and of the tortured stores.
pub const HISTORIES: [&str; 8] = [
    SIMULATIONS[0],
    SIMULATIONS[1],
    SIMULATIONS[2],
    SIMULATIONS[3],
    "torture-files",
    "torture-redis",
    "torture-postgres",
    "torture-dynamodb",
];

/// The reports of the simulated core, of the simulated backends, and of the core with all modes.
const SIMULATIONS: [&str; 4] = ["simulation", "simulation-dynamodb", "simulation-objects", OF_MODES];
/// Those of exclusive locks.
const EXCLUSIVE: [&str; 3] = [SIMULATIONS[0], SIMULATIONS[1], SIMULATIONS[2]];
const OF_MODES: &str = "simulation-modes";

/// The least number of acquisitions of the simulated core that is enough to publish the page.
pub const LEAST_SIMULATED: u64 = 1_000_000;
/// The least number of acquisitions in each other history that is enough to publish the page.
pub const LEAST_TORTURED: u64 = 20_000;

/// The content of the page.
#[derive(Debug)]
pub struct Page {
    /// The tests that the page names.
    pub cases: Cases,
    /// The reports of the simulation, of each mistake brought back, and of each torture, by the
    /// names of their files.
    pub results: BTreeMap<String, Value>,
    /// The tests that ran.
    pub runs: Runs,
}

/// Reads the reports `NAME.json` of a directory.
///
/// # Errors
/// If a report cannot be read, or is not JSON.
pub fn read(directory: &Path) -> io::Result<BTreeMap<String, Value>> {
    let mut results = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if let (Some(name), Some("json")) = (path.file_stem(), path.extension().and_then(|e| e.to_str())) {
            let report = serde_json::from_slice(&fs::read(&path)?).map_err(io::Error::other)?;
            results.insert(name.to_string_lossy().into_owned(), report);
        }
    }
    Ok(results)
}

/// Returns the name of the report of a simulation with that mistake.
fn brought_back(mistake: Mistake, simulation: &str) -> String {
    format!("{simulation}-{mistake}")
}

/// Returns the names of the reports of all mistakes that were brought back.
pub fn all_brought_back() -> impl Iterator<Item = String> {
    let exclusive = |mistake: Mistake| EXCLUSIVE.iter().map(move |simulation| brought_back(mistake, simulation));
    let of_modes = Mistake::OF_MODES.into_iter().map(|mistake| brought_back(mistake, OF_MODES));
    Mistake::ALL.into_iter().flat_map(exclusive).chain(of_modes)
}

impl Page {
    /// Returns the keys of the template, which the tests carry.
    pub fn keys() -> impl Iterator<Item = &'static str> {
        holes().filter_map(|hole| hole.strip_prefix("cases "))
    }

    /// Returns the reasons against the page: tests that failed or did not run, and violations.
    pub fn wrong(&self) -> Vec<String> {
        let missing = self.cases.all().into_iter().filter(|case| self.runs.passed(case) == 0);
        let mut wrong: Vec<_> = missing.map(|case| format!("the case {case} did not run")).collect();
        wrong.extend(self.runs.failed().iter().map(|test| format!("{test} failed")));
        for name in HISTORIES {
            match self.results.get(name) {
                None => wrong.push(format!("{name}.json is missing")),
                Some(report) if report["violations"] != 0 => wrong.push(format!("{name}: {report:#}")),
                Some(_) => {}
            }
        }
        let lacks = |hole: &str| hole.split_once('.').is_some_and(|(of, what)| self.count(of, what).is_none());
        let unknown: BTreeSet<_> = holes().filter(|hole| lacks(hole)).collect();
        wrong.extend(unknown.into_iter().map(|figure| format!("there is no figure {figure}")));
        for result in all_brought_back() {
            if self.count(&result, "violations").is_none_or(|found| found == 0) {
                wrong.push(format!("{result}: the mistake was not found"));
            }
        }
        wrong
    }

    /// Returns the histories with too few acquisitions for a published page.
    pub fn too_few(&self) -> Vec<String> {
        let least = |name| if name == HISTORIES[0] { LEAST_SIMULATED } else { LEAST_TORTURED };
        let counted = HISTORIES.map(|name| (name, self.count(name, "acquisitions").unwrap_or(0), least(name)));
        let few = counted.into_iter().filter(|(_, acquisitions, least)| acquisitions < least);
        few.map(|(name, acquisitions, least)| format!("{name}: {acquisitions} acquisitions of {least}")).collect()
    }

    /// Returns a figure of one report, or the sum of several, rounded to a whole number.
    fn count(&self, of: &str, what: &str) -> Option<u64> {
        let reports = match of {
            "all" => &HISTORIES[..],
            "simulations" => &SIMULATIONS[..],
            _ => slice::from_ref(&of),
        };
        let figure = |name: &&str| self.results.get(*name)?.get(what)?.as_f64();
        reports.iter().map(figure).sum::<Option<f64>>().map(|sum| sum.round() as u64)
    }

    fn figure(&self, hole: &str) -> String {
        let (of, what) = hole.split_once('.').unwrap_or_default();
        self.count(of, what).map(grouped).unwrap_or_default()
    }

    /// Returns the tests of a key, each with the number of backends and set-ups that it ran on.
    fn ran(&self, key: &str) -> String {
        let case = |case: &str| match self.runs.passed(case) {
            1 => format!("`{case}`"),
            times => format!("`{case}` ({times}×)"),
        };
        self.cases.of(key).map(case).collect::<Vec<_>>().join(", ")
    }

    /// Returns a row for each mistake, with the seeds of each simulation that found it.
    fn found(&self, mistakes: &[Mistake], simulations: &[&str]) -> String {
        let row = |mistake: &Mistake| {
            let found = simulations.iter().map(|simulation| {
                let [found, seeds] = ["violations", "seeds"]
                    .map(|what| self.count(&brought_back(*mistake, simulation), what).unwrap_or_default());
                format!("{found} of {seeds}")
            });
            format!("| `{mistake}` | {} |", found.collect::<Vec<_>>().join(" | "))
        };
        mistakes.iter().map(row).collect::<Vec<_>>().join("\n")
    }
}

/// Returns the placeholders of the template, without their braces.
fn holes() -> impl Iterator<Item = &'static str> {
    TEMPLATE.split('{').skip(1).filter_map(|rest| rest.split('}').next())
}

/// Formats `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group)).collect();
    groups.join(",")
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = TEMPLATE.split(['{', '}']);
        f.write_str(parts.next().unwrap_or_default())?;
        while let (Some(hole), Some(words)) = (parts.next(), parts.next()) {
            match hole.strip_prefix("cases ") {
                Some(key) => f.write_str(&self.ran(key))?,
                None if hole == "mistakes" => f.write_str(&self.found(&Mistake::ALL, &EXCLUSIVE))?,
                None if hole == "mistakes-of-modes" => f.write_str(&self.found(&Mistake::OF_MODES, &[OF_MODES]))?,
                None => f.write_str(&self.figure(hole))?,
            }
            f.write_str(words)?;
        }
        Ok(())
    }
}
