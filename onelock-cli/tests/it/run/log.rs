//! The form of messages: JSON, priorities for journald, and the events of the library.

use std::{fs::File, os::unix::fs::MetadataExt, process::Stdio};

use serde_json::Value;

use super::fixture::{Locks, Running, output};

fn objects(stderr: &[u8]) -> Vec<Value> {
    let text = String::from_utf8(stderr.to_vec()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {text}"))).collect()
}

#[test]
fn every_message_is_an_object_with_log_format_json() {
    let locks = Locks::new();
    let mut holder = Running::start(&mut locks.run(["x", "sh", "-c", "echo held; exec sleep 600"]));
    holder.expect_line("held");
    let refused = output(&mut locks.run(["--log-format", "json", "-n", "-v", "x", "true"]));
    let said = objects(&refused.stderr);
    assert!(!said.is_empty());
    for object in &said {
        assert_eq!((object["level"].as_str(), object["lock"].as_str()), (Some("info"), Some("x")), "{object}");
        assert!(object["time"].as_str().unwrap().ends_with('Z') && object["message"].is_string(), "{object}");
    }

    let lost = output(&mut locks.run(["--log-format", "json", "--max-hold", "300ms", "y", "sleep", "600"]));
    let said = objects(&lost.stderr);
    let last = said.last().unwrap();
    assert_eq!((last["level"].as_str(), last["code"].as_u64()), (Some("error"), Some(75)), "{last}");
}

/// Returns what a failing run writes to a file that `stream` calls the journal.
fn into_file(stream: impl Fn(&File) -> String) -> String {
    let locks = Locks::new();
    let path = locks.dir.path().join("stderr");
    let file = File::create(&path).unwrap();
    let mut run = locks.run(["x", "no-such-command"]);
    run.env("JOURNAL_STREAM", stream(&file)).stdin(Stdio::null()).stderr(file);
    assert_eq!(run.status().unwrap().code(), Some(127));
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn only_the_journal_gets_priorities() {
    let journal = into_file(|file| {
        let found = file.metadata().unwrap();
        format!("{}:{}", found.dev(), found.ino())
    });
    assert!(journal.starts_with("<3>onelock: the command"), "{journal}");
    // A unit whose standard error was redirected inherits the variable.
    let redirected = into_file(|_| "1:1".into());
    assert!(redirected.starts_with("onelock: the command"), "{redirected}");
}

#[test]
fn events_of_the_library_are_shown_with_vv() {
    let locks = Locks::new();
    let said = |verbose: &str| String::from_utf8(output(&mut locks.run([verbose, "x", "true"])).stderr).unwrap();
    assert!(said("-vv").contains("onelock: debug: "), "{}", said("-vv"));
    assert!(!said("-v").contains("debug: "), "{}", said("-v"));
}
