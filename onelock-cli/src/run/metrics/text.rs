//! The series of the file, in the text format of Prometheus.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use super::{Event, Outcome};

/// The first line of the file, by which later runs know it.
pub(super) const HEADER: &str = "# Written by onelock run --metrics-file.\n";

/// Values by `metric{labels}`.
pub(super) type Series = BTreeMap<String, String>;

struct Metric {
    name: &'static str,
    sort: &'static str,
    help: &'static str,
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, sort: "gauge", help }
}

const OUTCOMES: Metric = Metric {
    name: "onelock_run_outcomes_total",
    sort: "counter",
    help: "Runs of the job by outcome: succeeded, failed, contended, lost, error, interrupted.",
};
const ACQUIRED: Metric = gauge(
    "onelock_run_acquired_timestamp_seconds",
    "Time at which a run last acquired the lock; later than the end while it works.",
);
const ENDED: Metric = gauge("onelock_run_ended_timestamp_seconds", "Time at which a run that had the lock last ended.");
const SUCCEEDED: Metric =
    gauge("onelock_run_succeeded_timestamp_seconds", "Time at which the command last ended with status 0.");
const EXIT_CODE: Metric = gauge("onelock_run_exit_code", "Exit code of the last run that had the lock.");
const WAIT: Metric = gauge("onelock_run_wait_seconds", "Time that the last run waited for the lock.");
const HOLD: Metric = gauge("onelock_run_hold_seconds", "Time that the last run held the lock.");

const METRICS: &[Metric] = &[OUTCOMES, ACQUIRED, ENDED, SUCCEEDED, EXIT_CODE, WAIT, HOLD];

/// Changes the series of the job `name` by an event of its run.
pub(super) fn note(series: &mut Series, name: &str, event: &Event) {
    let mut set = |metric: &Metric, value: String| {
        series.insert(key(metric, &[("name", name)]), value);
    };
    match event {
        Event::Acquired { at, waited } => {
            set(&ACQUIRED, timestamp(*at));
            set(&WAIT, seconds(*waited));
        }
        Event::Ended { at, outcome, code, held } => {
            if let Some(held) = held {
                set(&ENDED, timestamp(*at));
                set(&HOLD, seconds(*held));
                set(&EXIT_CODE, code.to_string());
            }
            if *outcome == Outcome::Succeeded {
                set(&SUCCEEDED, timestamp(*at));
            }
        }
    }
    // All of them from the first run on: an increase from a series that was not there is not seen.
    for outcome in Outcome::ALL {
        let labels = [("name", name), ("outcome", outcome.as_str())];
        let count = series.entry(key(&OUTCOMES, &labels)).or_insert_with(|| "0".into());
        if matches!(event, Event::Ended { outcome: ended, .. } if *ended == outcome) {
            *count = (count.parse::<u64>().unwrap_or(0) + 1).to_string();
        }
    }
}

fn key(metric: &Metric, labels: &[(&str, &str)]) -> String {
    let labels = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value)));
    format!("{}{{{}}}", metric.name, labels.collect::<Vec<_>>().join(","))
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn timestamp(time: SystemTime) -> String {
    seconds(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn seconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64())
}

/// Returns the content of the file: each metric with its help, its sort and all its series.
pub(super) fn written(series: &Series) -> String {
    let mut text = HEADER.to_owned();
    for metric in METRICS {
        let begins = format!("{}{{", metric.name);
        let own: Vec<_> = series.iter().filter(|(key, _)| key.starts_with(&begins)).collect();
        if own.is_empty() {
            continue;
        }
        let _ = writeln!(text, "# HELP {} {}\n# TYPE {} {}", metric.name, metric.help, metric.name, metric.sort);
        for (key, value) in own {
            let _ = writeln!(text, "{key} {value}");
        }
    }
    text
}

/// Returns the series of a file that [`written`] made.
pub(super) fn parsed(text: &str) -> Series {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(outcome: Outcome, held: Option<Duration>) -> Event {
        Event::Ended { at: SystemTime::UNIX_EPOCH + Duration::from_millis(12_500), outcome, code: 3, held }
    }

    #[test]
    fn counters_go_on_from_the_file() {
        let mut series = Series::new();
        for _ in 0..3 {
            series = parsed(&written(&series));
            note(&mut series, "etl", &ended(Outcome::Contended, None));
        }
        let text = written(&series);
        assert!(text.contains("onelock_run_outcomes_total{name=\"etl\",outcome=\"contended\"} 3\n"), "{text}");
        assert!(text.contains("onelock_run_outcomes_total{name=\"etl\",outcome=\"lost\"} 0\n"), "{text}");
        assert!(!text.contains("exit_code"), "a run without the lock says nothing of the last one: {text}");
    }

    #[test]
    fn a_failure_keeps_the_time_of_the_success() {
        let mut series = Series::new();
        note(&mut series, "etl", &ended(Outcome::Succeeded, Some(Duration::from_secs(1))));
        let later = Event::Ended {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(99),
            outcome: Outcome::Failed,
            code: 3,
            held: Some(Duration::ZERO),
        };
        note(&mut series, "etl", &later);
        let text = written(&series);
        assert!(text.contains("onelock_run_succeeded_timestamp_seconds{name=\"etl\"} 12.500\n"), "{text}");
        assert!(text.contains("onelock_run_ended_timestamp_seconds{name=\"etl\"} 99.000\n"), "{text}");
        assert!(text.contains("onelock_run_exit_code{name=\"etl\"} 3\n"), "{text}");
    }

    #[test]
    fn a_hostile_name_stays_in_its_label() {
        let mut series = Series::new();
        note(&mut series, "a\"} 1\nb\\", &ended(Outcome::Failed, None));
        let text = written(&series);
        assert!(text.contains(r#"{name="a\"} 1\nb\\",outcome="failed"} 1"#), "{text}");
        assert_eq!(written(&parsed(&text)), text);
    }
}
