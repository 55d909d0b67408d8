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

/// The job, by its lock and its store.
#[derive(Debug, Default)]
pub(super) struct Job {
    pub(super) name: String,
    /// The name of the store, if one was chosen.
    pub(super) chosen_store: Option<String>,
    /// The name by which the store calls itself, if it was opened.
    pub(super) opened_store: Option<String>,
}

/// The labels of the series of one job, escaped.
struct Labels {
    name: String,
    store: String,
}

impl Labels {
    /// Returns the labels of `job`. If its store is another one than before, all its series move to
    /// the new one.
    ///
    /// They move, because a job goes on when its store changes: its last success still counts. A
    /// run that cannot open its store stays at the one that the file has. An increase of a series
    /// that was not there before is not seen.
    fn of(job: &Job, series: &mut Series) -> Self {
        let name = escaped(&job.name);
        let before = store_of(series, &name);
        let opened = job.opened_store.as_deref().map(escaped);
        let chosen = || job.chosen_store.as_deref().map(escaped).unwrap_or_default();
        let labels = Self { name, store: opened.or_else(|| before.clone()).unwrap_or_else(chosen) };
        if let Some(before) = before.filter(|before| *before != labels.store) {
            labels.move_from(&before, series);
        }
        labels
    }

    fn key(&self, metric: &Metric, outcome: Option<Outcome>) -> String {
        let outcome = outcome.map(|outcome| format!(",outcome=\"{}\"", outcome.as_str())).unwrap_or_default();
        format!("{}{outcome}}}", beginning(metric, &self.name, &self.store))
    }

    fn move_from(&self, store: &str, series: &mut Series) {
        for metric in METRICS {
            let (old, new) = (beginning(metric, &self.name, store), beginning(metric, &self.name, &self.store));
            let keys: Vec<_> = series.keys().filter(|key| key.starts_with(&old)).cloned().collect();
            for key in keys {
                let value = series.remove(&key).expect("its key was found");
                series.insert(format!("{new}{}", &key[old.len()..]), value);
            }
        }
    }
}

/// Returns the beginning of the series of a job, up to its label `store`.
fn beginning(metric: &Metric, name: &str, store: &str) -> String {
    format!("{}{{name=\"{name}\",store=\"{store}\"", metric.name)
}

/// Returns the label `store` of a job in the file. Every run has counted its outcome.
fn store_of(series: &Series, name: &str) -> Option<String> {
    let begins = format!("{}{{name=\"{name}\",store=\"", OUTCOMES.name);
    let behind = series.keys().find_map(|key| key.strip_prefix(&begins))?;
    let mut is_escaped = false;
    let end = behind.find(|c| {
        let is_end = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    });
    end.map(|end| behind[..end].to_owned())
}

/// Changes the series of `job` by an event of its run.
pub(super) fn note(series: &mut Series, job: &Job, event: &Event) {
    let labels = Labels::of(job, series);
    let mut set = |metric: &Metric, value: String| {
        series.insert(labels.key(metric, None), value);
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
        let count = series.entry(labels.key(&OUTCOMES, Some(outcome))).or_insert_with(|| "0".into());
        if matches!(event, Event::Ended { outcome: ended, .. } if *ended == outcome) {
            *count = (count.parse::<u64>().unwrap_or(0) + 1).to_string();
        }
    }
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

    fn on(store: &str) -> Job {
        Job { name: "etl".into(), chosen_store: Some("redis://a?ttl=9s".into()), opened_store: Some(store.into()) }
    }

    fn etl() -> Job {
        on("redis://a")
    }

    fn ended(outcome: Outcome, held: Option<Duration>) -> Event {
        Event::Ended { at: SystemTime::UNIX_EPOCH + Duration::from_millis(12_500), outcome, code: 3, held }
    }

    #[test]
    fn counters_go_on_from_the_file() {
        let mut series = Series::new();
        for _ in 0..3 {
            series = parsed(&written(&series));
            note(&mut series, &etl(), &ended(Outcome::Contended, None));
        }
        let text = written(&series);
        assert!(
            text.contains("onelock_run_outcomes_total{name=\"etl\",store=\"redis://a\",outcome=\"contended\"} 3\n"),
            "{text}"
        );
        assert!(
            text.contains("onelock_run_outcomes_total{name=\"etl\",store=\"redis://a\",outcome=\"lost\"} 0\n"),
            "{text}"
        );
        assert!(!text.contains("exit_code"), "a run without the lock says nothing of the last one: {text}");
    }

    #[test]
    fn a_failure_keeps_the_time_of_the_success() {
        let mut series = Series::new();
        note(&mut series, &etl(), &ended(Outcome::Succeeded, Some(Duration::from_secs(1))));
        let later = Event::Ended {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(99),
            outcome: Outcome::Failed,
            code: 3,
            held: Some(Duration::ZERO),
        };
        note(&mut series, &etl(), &later);
        let text = written(&series);
        assert!(
            text.contains("onelock_run_succeeded_timestamp_seconds{name=\"etl\",store=\"redis://a\"} 12.500\n"),
            "{text}"
        );
        assert!(
            text.contains("onelock_run_ended_timestamp_seconds{name=\"etl\",store=\"redis://a\"} 99.000\n"),
            "{text}"
        );
        assert!(text.contains("onelock_run_exit_code{name=\"etl\",store=\"redis://a\"} 3\n"), "{text}");
    }

    #[test]
    fn a_hostile_name_stays_in_its_label() {
        let mut series = Series::new();
        let mut job = Job { name: "a\"} 1\nb\\".into(), ..on("file:///\"\\") };
        note(&mut series, &job, &ended(Outcome::Failed, None));
        let text = written(&series);
        assert!(text.contains(r#"{name="a\"} 1\nb\\",store="file:///\"\\",outcome="failed"} 1"#), "{text}");
        assert_eq!(written(&parsed(&text)), text);
        job.opened_store = None;
        note(&mut series, &job, &ended(Outcome::Failed, None));
        let text = written(&series);
        assert!(text.contains(r#"{name="a\"} 1\nb\\",store="file:///\"\\",outcome="failed"} 2"#), "{text}");
    }

    #[test]
    fn a_job_takes_its_series_to_another_store() {
        let mut series = Series::new();
        note(&mut series, &etl(), &ended(Outcome::Succeeded, Some(Duration::ZERO)));
        let other = Job { name: "etl2".into(), ..etl() };
        note(&mut series, &other, &ended(Outcome::Failed, None));
        note(&mut series, &on("memory:"), &ended(Outcome::Failed, None));
        let text = written(&series);
        assert!(text.contains("onelock_run_succeeded_timestamp_seconds{name=\"etl\",store=\"memory:\"} 12"), "{text}");
        assert!(text.contains("{name=\"etl\",store=\"memory:\",outcome=\"succeeded\"} 1\n"), "{text}");
        assert!(text.contains("{name=\"etl\",store=\"memory:\",outcome=\"failed\"} 1\n"), "{text}");
        assert!(!text.contains("{name=\"etl\",store=\"redis"), "{text}");
        assert!(text.contains("{name=\"etl2\",store=\"redis://a\",outcome=\"failed\"} 1\n"), "{text}");
    }

    #[test]
    fn a_run_without_its_store_counts_at_the_last_one() {
        let mut series = Series::new();
        let unopened = Job { opened_store: None, ..etl() };
        note(&mut series, &unopened, &ended(Outcome::Error, None));
        assert!(written(&series).contains("{name=\"etl\",store=\"redis://a?ttl=9s\",outcome=\"error\"} 1\n"));
        note(&mut series, &etl(), &ended(Outcome::Succeeded, None));
        note(&mut series, &unopened, &ended(Outcome::Error, None));
        let text = written(&series);
        assert!(text.contains("{name=\"etl\",store=\"redis://a\",outcome=\"error\"} 2\n"), "{text}");
        assert!(!text.contains("ttl"), "{text}");
    }
}
