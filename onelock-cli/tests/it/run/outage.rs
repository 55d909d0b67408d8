//! A store that is away: the command says what it retries, and until when.

use std::{net::TcpListener, process::Command};

use super::fixture::{Locks, Running, code, onelock, output};

/// A port on which nothing listens.
pub(crate) fn refused_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn urls() -> [String; 2] {
    let port = refused_port();
    [format!("redis://127.0.0.1:{port}"), format!("dynamodb://locks?region=eu-west-1&endpoint=http://127.0.0.1:{port}")]
}

/// A run of `true` on the store at `url`, whose credentials are in the environment.
fn run(url: &str, options: &[&str]) -> Command {
    let mut run = onelock(["run", "--url", url]);
    run.envs([("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")]).args(options).args(["x", "true"]);
    run
}

#[test]
// verifies: silent-retry
fn verbose_run_reports_the_retry_and_its_limit() {
    for url in urls() {
        for (options, limit) in [(&["-v"][..], "30"), (&["-v", "-w", "7s"], "7")] {
            let mut running = Running::start(&mut run(&url, options));
            let line = running.message();
            assert!(line.starts_with("onelock: acquire \"x\" on "), "{line}");
            assert!(line.ends_with(&format!("; retrying for up to {limit} s")), "{line}");
        }
    }
}

#[test]
fn same_failure_is_reported_once() {
    for url in urls() {
        let run = output(&mut run(&url, &["-v", "-w", "2s"]));
        let messages = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(69), "{messages}");
        assert_eq!(messages.matches("; retrying for up to ").count(), 1, "{messages}");
    }
}

#[test]
fn failure_without_a_wait_or_verbose_is_one_line() {
    for url in urls() {
        for options in [["-v", "-n"], ["-w", "1s"]] {
            let run = output(&mut run(&url, &options));
            let messages = String::from_utf8(run.stderr).unwrap();
            assert!(run.status.code() == Some(69) && messages.lines().count() == 1, "{messages}");
        }
    }
}

#[test]
// verifies: silent-retry
fn silent_server_is_reported_while_the_first_request_hangs() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}?timeout=100s&connect_timeout=100s&ttl=1h", server.local_addr().unwrap());
    let mut running = Running::start(&mut run(&url, &["-v"]));
    assert_eq!(running.message(), "onelock: the store has not answered yet about \"x\"");
}

#[test]
fn held_lock_is_no_silent_store() {
    let locks = Locks::new();
    let mut holder = Running::start(&mut locks.run(["x", "-c", "echo held; sleep 1000"]));
    holder.expect_line("held");
    assert_eq!(code(&mut locks.run(["-w", "2s", "x", "true"])), 1);
    let waited = output(&mut locks.run(["-v", "-w", "2s", "x", "true"]));
    let messages = String::from_utf8(waited.stderr).unwrap();
    assert!(!messages.contains("has not answered"), "{messages}");
}
