//! The metrics of `onelock run --metrics-file`, the dashboard and the alert rules.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::run::fixture::{Locks, Running, code, eventually, onelock, output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn example(name: &str) -> PathBuf {
    root().join("examples/monitoring").join(name)
}

fn promtool(arguments: &[&str], stdin: Stdio) -> Output {
    let output = Command::new("promtool").args(arguments).current_dir(example("")).stdin(stdin).output();
    output.unwrap_or_else(|error| panic!("promtool: {error}; this test needs it: apt-get install prometheus"))
}

/// Returns the value of a series of the job `x` on `locks`. `labels` are those beside the name and
/// the store.
fn labelled(locks: &Locks, metric: &str, labels: &str) -> Option<f64> {
    let series = format!("{metric}{{name=\"x\",store=\"{}\"{labels}}}", locks.url());
    let text = fs::read_to_string(locks.dir.path().join("x.prom")).unwrap();
    let values = text.lines().filter_map(|line| line.rsplit_once(' '));
    values.filter(|(key, _)| *key == series).find_map(|(_, value)| value.parse().ok())
}

fn value(locks: &Locks, metric: &str) -> Option<f64> {
    labelled(locks, metric, "")
}

fn outcomes(locks: &Locks, outcome: &str) -> f64 {
    labelled(locks, "onelock_run_outcomes_total", &format!(",outcome=\"{outcome}\""))
        .unwrap_or_else(|| panic!("no outcome {outcome}"))
}

fn metrics(locks: &Locks, arguments: &[&str]) -> Command {
    let file = locks.dir.path().join("x.prom");
    let mut command = locks.run(["--metrics-file", file.to_str().unwrap()]);
    command.args(arguments);
    command
}

#[test]
fn metrics_tell_every_outcome_of_a_run() {
    let locks = Locks::new();
    let file = locks.dir.path().join("x.prom");
    assert_eq!(code(&mut metrics(&locks, &["x", "true"])), 0);
    let succeeded = value(&locks, "onelock_run_succeeded_timestamp_seconds").unwrap();
    assert_eq!(code(&mut metrics(&locks, &["x", "sh", "-c", "exit 3"])), 3);
    assert_eq!(value(&locks, "onelock_run_exit_code"), Some(3.0));
    assert_eq!(code(&mut metrics(&locks, &["--max-hold", "300ms", "x", "sleep", "600"])), 75);
    assert_eq!(code(&mut metrics(&locks, &["x", "no-such-command"])), 127);
    let ended = "onelock_run_ended_timestamp_seconds";
    let acquired = "onelock_run_acquired_timestamp_seconds";
    assert!(value(&locks, ended) >= value(&locks, acquired));

    let mut holder = Running::start(&mut metrics(&locks, &["x", "sh", "-c", "echo held; exec sleep 600"]));
    holder.expect_line("held");
    assert!(value(&locks, acquired) > value(&locks, ended), "a run that works has not ended");
    assert_eq!(code(&mut metrics(&locks, &["-n", "-E", "0", "x", "true"])), 0);
    let mut waiting = Running::start(&mut metrics(&locks, &["-v", "x", "true"]));
    assert!(waiting.message().contains("waiting"));
    waiting.signal(Signal::SIGTERM);
    eventually("the interrupted run is counted", || outcomes(&locks, "interrupted") == 1.0);
    holder.signal(Signal::SIGTERM);
    eventually("the end of the holder is counted", || outcomes(&locks, "failed") == 2.0);

    for (outcome, times) in [("succeeded", 1.0), ("contended", 1.0), ("lost", 1.0), ("error", 1.0)] {
        assert_eq!(outcomes(&locks, outcome), times, "{outcome}");
    }
    assert_eq!(value(&locks, "onelock_run_succeeded_timestamp_seconds"), Some(succeeded));
    let checked = promtool(&["check", "metrics"], fs::File::open(&file).unwrap().into());
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
}

#[test]
fn metrics_name_the_store_without_its_secrets() {
    let locks = Locks::new();
    let file = locks.dir.path().join("x.prom");
    // Without a server, and with an option that the name of the open store leaves out.
    for url in ["redis://:hunter2@127.0.0.1:1?ttl=9s", "redis://:hunter2@127.0.0.1:1?no-option=1"] {
        let mut run = onelock(["run", "-n", "--metrics-file", file.to_str().unwrap(), "x", "true"]);
        assert_ne!(code(run.env("ONELOCK_URL", url)), 0);
    }
    let text = fs::read_to_string(&file).unwrap();
    let series = "onelock_run_outcomes_total{name=\"x\",store=\"redis://127.0.0.1:1\",outcome=\"error\"} 2\n";
    assert!(text.contains(series) && !text.contains("hunter2"), "{text}");
}

#[test]
fn metrics_that_cannot_be_written_are_a_warning() {
    let locks = Locks::new();
    let other = locks.dir.path().join("x.prom");
    fs::write(&other, "of another program\n").unwrap();
    let ran = output(&mut metrics(&locks, &["x", "echo", "ran"]));
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(ran.stdout, b"ran\n");
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(said.contains("warning: the metrics were not written") && said.contains("choose another path"), "{said}");
    assert_eq!(fs::read_to_string(other).unwrap(), "of another program\n");
}

#[test]
fn prometheus_accepts_the_rules_and_their_tests() {
    for arguments in [&["check", "rules", "alerts.yml"][..], &["test", "rules", "alerts.test.yml"]] {
        let checked = promtool(arguments, Stdio::null());
        assert!(checked.status.success(), "{arguments:?}: {checked:?}");
    }
}

/// Returns the queries of the dashboard.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(example("dashboard.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_query_of_the_dashboard_is_valid() {
    let rules =
        queries().iter().enumerate().fold("groups:\n- name: dashboard\n  rules:\n".to_owned(), |rules, (n, q)| {
            let query = serde_json::to_string(&q.replace("$name", "etl").replace("$store", "redis://h")).unwrap();
            rules + &format!("  - record: dashboard:query{n}\n    expr: {query}\n")
        });
    let file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
    fs::write(file.path(), rules).unwrap();
    let checked = promtool(&["check", "rules", file.path().to_str().unwrap()], Stdio::null());
    assert!(checked.status.success(), "{checked:?}");
}

/// Returns the words of a text that are names of metrics.
fn metric_names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names = words.filter(|word| word.starts_with("onelock_"));
    names.map(|name| name.trim_end_matches("_sum").trim_end_matches("_count").to_owned()).collect()
}

#[test]
fn rules_and_dashboard_use_only_documented_metrics() {
    let page = fs::read_to_string(root().join("docs/monitoring.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `onelock_"));
    let documented: BTreeSet<_> = rows.flat_map(|row| metric_names(row.split('|').nth(1).unwrap())).collect();
    let used = metric_names(&(queries().join("\n") + &fs::read_to_string(example("alerts.yml")).unwrap()));
    assert!(used.is_subset(&documented), "{:?}", used.difference(&documented).collect::<Vec<_>>());

    let locks = Locks::new();
    assert_eq!(code(&mut metrics(&locks, &["x", "true"])), 0);
    let written = metric_names(&fs::read_to_string(locks.dir.path().join("x.prom")).unwrap());
    let of_jobs = documented.into_iter().filter(|name| name.starts_with("onelock_run_")).collect::<BTreeSet<_>>();
    assert_eq!(written, of_jobs);
}

#[test]
fn every_rule_about_jobs_is_explained() {
    let page = fs::read_to_string(root().join("docs/monitoring.md")).unwrap();
    let rules = fs::read_to_string(example("alerts.yml")).unwrap();
    let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let of_jobs = names.take_while(|name| *name != "OnelockLockLost");
    for name in of_jobs {
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
    }
}
