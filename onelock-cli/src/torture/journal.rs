//! The journal of a worker: one JSON object a line, so that a killed process damages at most its
//! last line.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use lock_history::{Event, EventKind, Mode};
use serde_json::{Value, json};

#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    worker: u64,
}

/// The entries of one journal.
#[derive(Debug, Default)]
pub(super) struct JournalEntries {
    pub(super) events: Vec<Event>,
    pub(super) errors: Vec<String>,
}

fn path(directory: &Path, worker: u64) -> PathBuf {
    directory.join(format!("worker-{worker}.jsonl"))
}

impl Journal {
    pub(super) fn create(directory: &Path, worker: u64) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).open(path(directory, worker))?;
        Ok(Self { file, worker })
    }

    pub(super) fn worker(&self) -> u64 {
        self.worker
    }

    pub(super) fn note(&mut self, at: Duration, name: &str, what: &EventKind) -> io::Result<()> {
        let mut line = write(what);
        line["at"] = json!(nanos(at));
        line["name"] = json!(name);
        line["worker"] = json!(self.worker);
        self.line(&line)
    }

    pub(super) fn error(&mut self, error: &str) -> io::Result<()> {
        self.line(&json!({ "error": error }))
    }

    fn line(&mut self, line: &Value) -> io::Result<()> {
        // One call, so that the page cache keeps the line even if the process is killed right
        // after.
        self.file.write_all(format!("{line}\n").as_bytes())
    }
}

/// Reads the journal of `worker`; a missing one means that it was killed before it began.
pub(super) fn read(directory: &Path, worker: u64) -> io::Result<JournalEntries> {
    let text = match std::fs::read_to_string(path(directory, worker)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    let mut notes = JournalEntries::default();
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        match line["error"].as_str() {
            Some(error) => notes.errors.push(error.to_owned()),
            None => notes.events.extend(parse(&line)),
        }
    }
    Ok(notes)
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).expect("2^64 ns since boot are 584 years")
}

fn write(what: &EventKind) -> Value {
    let until = |until: &Option<Duration>| until.map(nanos);
    match what {
        EventKind::Attempt { owner } => json!({ "what": "attempt", "owner": owner }),
        EventKind::Refused { owner } => json!({ "what": "refused", "owner": owner }),
        EventKind::Queued { place, mode, until } => {
            let (shared, permits) = parts(*mode);
            let until = nanos(*until);
            json!({ "what": "queued", "place": place, "until": until, "shared": shared, "permits": permits })
        }
        EventKind::GaveUp => json!({ "what": "gave_up" }),
        EventKind::Granted { token, until: end, mode } => {
            let (shared, permits) = parts(*mode);
            json!({ "what": "granted", "token": token, "until": until(end), "shared": shared, "permits": permits })
        }
        EventKind::Valid { until: end } => json!({ "what": "valid", "until": until(end) }),
        EventKind::Lost { told } => json!({ "what": "lost", "told": told }),
        EventKind::Released => json!({ "what": "released" }),
        EventKind::Died => json!({ "what": "died" }),
        EventKind::Stopped => json!({ "what": "stopped" }),
        EventKind::Resumed => json!({ "what": "resumed" }),
        EventKind::Accepted { token } => json!({ "what": "accepted", "token": token }),
        EventKind::Rejected { token } => json!({ "what": "rejected", "token": token }),
    }
}

/// Returns whether the mode is shared, and its number of permits.
fn parts(mode: Mode) -> (bool, Option<u16>) {
    let permits = if let Mode::Permit { of } = mode { Some(of) } else { None };
    (mode == Mode::Shared, permits)
}

fn parse(line: &Value) -> Option<Event> {
    let until = line["until"].as_u64().map(Duration::from_nanos);
    let owner = line["owner"].as_str().map(str::to_owned);
    let permits = line["permits"].as_u64().and_then(|of| u16::try_from(of).ok());
    let mode = match permits {
        Some(of) => Mode::Permit { of },
        None if line["shared"] == true => Mode::Shared,
        None => Mode::Exclusive,
    };
    let what = match line["what"].as_str()? {
        "attempt" => EventKind::Attempt { owner },
        "refused" => EventKind::Refused { owner },
        "queued" => EventKind::Queued { place: line["place"].as_u64()?, mode, until: until? },
        "gave_up" => EventKind::GaveUp,
        "granted" => EventKind::Granted { token: line["token"].as_u64(), until, mode },
        "valid" => EventKind::Valid { until },
        "lost" => EventKind::Lost { told: line["told"].as_bool()? },
        "released" => EventKind::Released,
        "died" => EventKind::Died,
        "stopped" => EventKind::Stopped,
        "resumed" => EventKind::Resumed,
        "accepted" => EventKind::Accepted { token: line["token"].as_u64()? },
        "rejected" => EventKind::Rejected { token: line["token"].as_u64()? },
        _ => return None,
    };
    let (at, worker) = (Duration::from_nanos(line["at"].as_u64()?), line["worker"].as_u64()?);
    Some(Event { at, worker, name: line["name"].as_str()?.into(), kind: what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journal_keeps_every_event_despite_a_torn_line() {
        let directory = tempfile::tempdir().unwrap();
        let until = Some(Duration::from_nanos(12));
        let all = [
            EventKind::Attempt { owner: None },
            EventKind::Attempt { owner: Some("c".into()) },
            EventKind::Refused { owner: Some("a \"b\"".into()) },
            EventKind::Queued { place: 3, mode: Mode::Permit { of: 3 }, until: Duration::from_nanos(12) },
            EventKind::GaveUp,
            EventKind::Granted { token: Some((1 << 53) - 1), until, mode: Mode::Exclusive },
            EventKind::Granted { token: None, until: None, mode: Mode::Shared },
            EventKind::Granted { token: None, until: None, mode: Mode::Permit { of: 3 } },
            EventKind::Valid { until },
            EventKind::Lost { told: true },
            EventKind::Released,
            EventKind::Died,
            EventKind::Stopped,
            EventKind::Resumed,
            EventKind::Accepted { token: 1 },
            EventKind::Rejected { token: 2 },
        ];
        let mut journal = Journal::create(directory.path(), 7).unwrap();
        for what in &all {
            journal.note(Duration::from_nanos(5), "n", what).unwrap();
        }
        journal.error("no such table").unwrap();
        journal.file.write_all(b"{\"at\": 5, \"na").unwrap();
        let notes = read(directory.path(), 7).unwrap();
        let whats: Vec<_> = notes.events.into_iter().map(|event| event.kind).collect();
        assert_eq!(whats, all);
        assert_eq!(notes.errors, ["no such table"]);
    }
}
