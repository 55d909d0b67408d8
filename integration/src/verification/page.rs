//! `docs/verification.md`, from what the runs left: nothing in it is written by hand but words.

use std::{collections::BTreeMap, fmt, fs, io, path::Path};

use serde_json::Value;

use super::{FAULTS, Fault, PROMISES, Promise, Runs, cases};
use test_support::sim::Mistake;

/// What the page is made of.
#[derive(Debug)]
pub struct Page {
    /// The reports of the simulation, of each mistake brought back, and of each torture, by the names of their files.
    pub results: BTreeMap<String, Value>,
    /// The tests that ran.
    pub runs: Runs,
}

/// Reads the reports `NAME.json` of a directory.
///
/// # Errors
/// When one cannot be read, or is no JSON.
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

/// The core over a model of a store, and the real DynamoDB backend over a model of its server.
const SIMULATIONS: [(&str, &str); 2] = [("simulation", "the core"), ("simulation-dynamodb", "the DynamoDB backend")];
const STORES: [(&str, &str); 3] =
    [("torture-files", "files"), ("torture-redis", "Redis"), ("torture-dynamodb", "DynamoDB Local")];

/// Acquisitions of the simulated core without which the page says too little.
pub const LEAST_SIMULATED: u64 = 1_000_000;
/// Acquisitions on each real store without which the page says too little.
pub const LEAST_TORTURED: u64 = 20_000;

impl Page {
    /// Why this must not become the page: something failed, or did not run.
    pub fn wrong(&self) -> Vec<String> {
        let missing = cases().filter(|case| self.runs.passed(case) == 0);
        let mut wrong: Vec<_> = missing.map(|case| format!("the case {case} did not run")).collect();
        wrong.extend(self.runs.failed().iter().map(|test| format!("{test} failed")));
        for name in histories() {
            match self.results.get(name) {
                None => wrong.push(format!("{name}.json is missing")),
                Some(report) if report["violations"] != 0 => wrong.push(format!("{name}: {report:#}")),
                Some(_) => {}
            }
        }
        for (mistake, (simulation, of)) in
            Mistake::ALL.iter().flat_map(|one| SIMULATIONS.map(|simulated| (one, simulated)))
        {
            if self.count(&brought_back(*mistake, simulation), "violations") == 0 {
                wrong.push(format!("{mistake} was not found in {of}"));
            }
        }
        wrong
    }

    /// Where fewer acquisitions were checked than the published page promises.
    pub fn too_few(&self) -> Vec<String> {
        let least = |name| if name == SIMULATIONS[0].0 { LEAST_SIMULATED } else { LEAST_TORTURED };
        let counted = histories().map(|name| (name, self.count(name, "acquisitions"), least(name)));
        let few = counted.filter(|(_, acquisitions, least)| acquisitions < least);
        few.map(|(name, acquisitions, least)| format!("{name}: {acquisitions} acquisitions of {least}")).collect()
    }

    fn count(&self, result: &str, what: &str) -> u64 {
        self.results.get(result).and_then(|report| report[what].as_u64()).unwrap_or_default()
    }

    /// Over the simulations and all tortures.
    fn sum(&self, what: &str) -> u64 {
        histories().map(|name| self.count(name, what)).sum()
    }

    /// Each with the number of backends and set-ups that it ran on.
    fn ran(&self, cases: &[&str]) -> String {
        let case = |case: &&str| match self.runs.passed(case) {
            1 => format!("`{case}`"),
            times => format!("`{case}` ({times}×)"),
        };
        cases.iter().map(case).collect::<Vec<_>>().join(", ")
    }

    fn promise(&self, promise: &Promise, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: Vec<_> = promise.rules.iter().map(|rule| rule.as_str()).collect();
        let (rules, acquisitions) = match rules[..] {
            [] => (String::new(), "–".into()),
            _ => (format!("; rules of the history: {}", rules.join(", ")), grouped(self.sum("acquisitions"))),
        };
        let Promise { id, text, faults, cases, .. } = promise;
        let violations = self.sum("violations");
        writeln!(f, "| {id} {text} | {}{rules} | {faults} | {acquisitions} | {violations} |", self.ran(cases))
    }

    fn histories(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| run | acquisitions | locks lost | killed | frozen | cut off | violations |")?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- | --- |")?;
        let simulations = SIMULATIONS
            .map(|(name, of)| (name, format!("simulation of {of}, {} seeds", grouped(self.count(name, "seeds")))));
        let stores = STORES.map(|(name, store)| {
            let seconds = self.results.get(name).and_then(|report| report["seconds"].as_f64()).unwrap_or_default();
            (name, format!("torture of {store}, {seconds:.0} s"))
        });
        for (name, run) in simulations.into_iter().chain(stores) {
            let counts = ["acquisitions", "lost", "killed", "frozen", "cut_off", "violations"];
            let counts = counts.map(|what| grouped(self.count(name, what)));
            writeln!(f, "| {run} | {} |", counts.join(" | "))?;
        }
        let both = |what| grouped(SIMULATIONS.iter().map(|(name, _)| self.count(name, what)).sum());
        let (clocks, messages) = (both("clocks_set"), both("messages"));
        writeln!(f, "\nThe simulations also set {clocks} clocks, and lost, repeated or delayed {messages} messages.")
    }

    fn mistakes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| mistake | of the core's seeds | of the DynamoDB backend's seeds |\n| --- | --- | --- |")?;
        for mistake in Mistake::ALL {
            let [core, dynamodb] = SIMULATIONS.map(|(simulation, _)| {
                let result = brought_back(mistake, simulation);
                format!("{} of {}", self.count(&result, "violations"), self.count(&result, "seeds"))
            });
            writeln!(f, "| `{mistake}` | {core} | {dynamodb} |")?;
        }
        Ok(())
    }
}

fn histories() -> impl Iterator<Item = &'static str> {
    SIMULATIONS.into_iter().chain(STORES).map(|(name, _)| name)
}

/// The report of a simulation with that mistake.
fn brought_back(mistake: Mistake, simulation: &str) -> String {
    format!("{simulation}-{mistake}")
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group)).collect();
    groups.join(",")
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEAD}")?;
        writeln!(f, "| promise | checked by | faults tried | acquisitions checked | violations |")?;
        writeln!(f, "| --- | --- | --- | --- | --- |")?;
        PROMISES.iter().try_for_each(|promise| self.promise(promise, f))?;
        writeln!(f, "\n{FAULTS_TRIED}\n| what goes wrong | in |\n| --- | --- |")?;
        FAULTS.iter().try_for_each(|Fault { text, cases }| writeln!(f, "| {text} | {} |", self.ran(cases)))?;
        writeln!(f, "\n{HISTORIES}")?;
        self.histories(f)?;
        writeln!(f, "\n{MISTAKES}")?;
        self.mistakes(f)?;
        write!(f, "\n{TAIL}")
    }
}

const HEAD: &str = "\
# Verification

What is promised, how it is checked, and what came out. `./verify` runs the checks and writes this page; every figure in it is what a program
printed in that run, and a page with a violation is not written. A case with a number behind it ran on that many backends and set-ups: most
cases are those of the conformance kit (`lock-core/src/testing`). A backend that is excepted from a case, with a reason, is among them: there the
case shows that what it needs is missing.

## Promises
";

const FAULTS_TRIED: &str = "\
## What goes wrong

The incidents of other lock libraries, as a list. Simulation and torture meet most of these too, in every combination that chance makes.
";

const HISTORIES: &str = "\
## Histories

Processes note what they ask for, get, lose, give back and write; the checker (`lock-core/src/history`) proves from that that no two believed at
once, that tokens rose, that a resource which compares tokens took no old write, that nobody was told that he himself is the holder, and
that no free lock stayed unobtainable. What is assumed stands beside each check: `integration/src/sim/mod.rs`, `integration/tests/models`, and
each backend's page. The DynamoDB backend is simulated as it is, AWS SDK included, over a model of DynamoDB that is itself compared with DynamoDB
Local (`lock-dynamo/tests/it/simulation`). Files have no network of ours to cut.
";

const MISTAKES: &str = "\
## Mistakes that were brought back

The simulation can see: each classic mistake is brought back in turn, in the core and in the real DynamoDB backend, and counted in how many seeds it
is found. The kit can see too: a backend
with one of its mistakes fails (`every_case_passes_without_a_mistake_and_fails_for_some_mistake`). So can the checker
(`lock-core/tests/history.rs`), the models, each with each of its assumptions broken (`integration/tests/models`), and `onelock torture`
(`a_store_that_loses_its_data_is_found_out`, `a_store_that_each_process_has_for_itself_is_found_out`).
";

const TAIL: &str = "\
## Running it

| what | command |
| --- | --- |
| this page anew | `./verify`, or `./verify SEEDS TIME` such as `./verify 100000 1h` |
| a longer torture of a store of yours | `onelock torture --url URL --time 1h --names 64 --ttl 1s` |
| more seeds | `cargo run --release -p integration --bin simulate -- --seeds 100000` |
| more seeds of the DynamoDB backend | `cargo run --release -p lock-dynamo --example simulate_dynamodb -- --seeds 10000` |
| one seed again, with the same build | the same with `--from SEED --seeds 1` |
| the kit on a backend of yours | a dozen lines: [examples/backend](../examples/backend/README.md) |
| what is read from the outside, fuzzed | `fuzz/run 3600` |

Every run of `./test` tortures the three stores for a minute each, simulates, runs the kit on all backends, and fuzzes for a minute each.
";
