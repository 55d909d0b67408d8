//! The limit of open files is reached: each step of the start fails once, with one line that says
//! so. No step blames the store.

use std::process::{Command, Output};

use super::fixture::{Locks, code, output};

/// The least limit under which the program is loaded.
const FEWEST: u32 = 4;
const RUN: &[&str] = &["run", "-n", "x", "--", "true"];
/// More than any command needs to start.
const ENOUGH: u32 = 64;
/// An address that refuses connections.
#[cfg(any(feature = "dynamo", feature = "object"))]
const NOWHERE: &str = "http://127.0.0.1:1";

/// Runs `onelock` with at most `limit` descriptors. `start` adds its arguments.
fn limited(limit: u32, start: &impl Fn(&mut Command)) -> Output {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("ulimit -c 0; ulimit -n {limit}; exec \"$0\" \"$@\"")]);
    command.arg(env!("CARGO_BIN_EXE_onelock")).env_remove("ONELOCK_URL_FILE");
    start(&mut command);
    output(&mut command)
}

/// Adds arguments, and the store, whose secrets no argument may have.
fn with_store<'a>(url: &'a str, args: &'a [&str]) -> impl Fn(&mut Command) + 'a {
    move |command| {
        command.env("ONELOCK_URL", url).args(args);
    }
}

/// Raises the limit until the command has enough descriptors. Returns the messages before that.
fn raise_limit_until(has_enough: impl Fn(&Output, &str) -> bool, start: impl Fn(&mut Command)) -> Vec<String> {
    let mut messages = Vec::new();
    for limit in FEWEST..ENOUGH {
        let ran = limited(limit, &start);
        let message = String::from_utf8(ran.stderr.clone()).unwrap();
        if has_enough(&ran, &message) {
            return messages;
        }
        assert!(message.starts_with("onelock: ") && message.lines().count() == 1, "limit {limit}: {message:?}");
        assert!(message.contains("(ulimit -n"), "limit {limit}: {message}");
        // 78: the library of TLS does not tell why it found no certificates.
        let code = if message.contains("SSL_CERT_FILE") { 78 } else { 71 };
        assert_eq!(ran.status.code(), Some(code), "limit {limit}: {message}");
        messages.push(message);
    }
    panic!("the command never had enough descriptors: {messages:?}");
}

/// Whether the command ended with `code`, and without a message.
fn ended_with(code: i32) -> impl Fn(&Output, &str) -> bool {
    move |ran, message| ran.status.code() == Some(code) && message.is_empty()
}

#[track_caller]
fn assert_each_step_failed(messages: &[String], steps: &[&str]) {
    for step in steps {
        assert!(messages.iter().any(|message| message.contains(step)), "no {step:?} in {messages:?}");
    }
}

#[test]
fn few_descriptors_are_one_line_on_files() {
    let locks = Locks::new();
    let url = locks.url();
    let messages = raise_limit_until(ended_with(0), with_store(&url, RUN));
    let steps =
        ["creating a socket pair", "starting a runtime", "cannot prepare for forks", "acquire \"x\" on file://"];
    assert_each_step_failed(&messages, &steps);
    assert!(locks.is_free(), "no failed start left a lock");
    // A lock file by its path, as with flock(1).
    let file = locks.dir.path().join("by-path");
    let messages = raise_limit_until(ended_with(0), |command| {
        command.env_remove("ONELOCK_URL").args(["run", "-n", file.to_str().unwrap(), "--", "true"]);
    });
    assert_each_step_failed(&messages, &["creating a socket pair", "by-path"]);
}

#[test]
fn few_descriptors_are_one_line_of_hold_and_status() {
    let locks = Locks::new();
    let url = locks.url();
    // The directory exists from here on.
    assert_eq!(code(&mut locks.run(["x", "--", "true"])), 0);
    // The input is empty, which ends the command when it holds the lock, or before.
    let has_begun = |ran: &Output, message: &str| {
        ended_with(0)(ran, message) || message.contains("the standard input ended before")
    };
    let messages = raise_limit_until(has_begun, with_store(&url, &["hold", "-n", "x"]));
    assert_each_step_failed(&messages, &["starting a runtime"]);
    assert!(locks.is_free(), "no failed start left a lock");
    // 1: the lock is free.
    let messages = raise_limit_until(ended_with(1), with_store(&url, &["status", "x"]));
    assert_each_step_failed(&messages, &["starting a runtime", "cannot prepare for forks"]);
}

#[cfg(feature = "redis")]
#[test]
fn few_descriptors_are_one_line_on_redis() {
    let server = test_support::redis::RedisServer::start();
    let url = format!("redis://127.0.0.1:{}", server.port());
    let messages = raise_limit_until(ended_with(0), with_store(&url, RUN));
    assert_each_step_failed(&messages, &["starting a runtime", "reading signals", "acquire \"x\" on redis://"]);
}

#[cfg(feature = "postgres")]
#[test]
fn few_descriptors_are_one_line_on_postgres() {
    let server = test_support::postgres::PostgresServer::start();
    let url = server.url();
    assert_eq!(code(&mut super::fixture::onelock(["init", "--url", &url])), 0);
    let messages = raise_limit_until(ended_with(0), with_store(&url, RUN));
    assert_each_step_failed(&messages, &["starting a runtime", "acquire \"x\" on postgres://"]);
}

/// Checks a command whose store is [`NOWHERE`]: with enough descriptors it finds that no server
/// listens.
#[cfg(any(feature = "dynamo", feature = "object"))]
fn assert_limit_is_told_before_the_server(start: impl Fn(&mut Command), step: &str) {
    let is_refused = |ran: &Output, message: &str| {
        ran.status.code() == Some(69) && message.contains(NOWHERE) && message.contains("could not be reached")
    };
    let messages = raise_limit_until(is_refused, start);
    assert_each_step_failed(&messages, &["starting a runtime", step]);
}

#[cfg(feature = "dynamo")]
#[test]
fn few_descriptors_are_one_line_on_dynamodb() {
    let url = format!("dynamodb://locks?region=eu-west-1&endpoint={NOWHERE}");
    // A debug build of the SDK panics if it cannot read the certificates of the system.
    let certificates = test_support::tls::Certificates::make();
    let start = |command: &mut Command| {
        with_store(&url, RUN)(command);
        command.env("AWS_CA_BUNDLE", certificates.ca());
        command.envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")]);
    };
    assert_limit_is_told_before_the_server(start, " on dynamodb://");
}

#[cfg(feature = "object")]
#[test]
fn few_descriptors_are_one_line_on_object_stores() {
    let url = format!("s3://locks?anonymous=true&endpoint={NOWHERE}");
    assert_limit_is_told_before_the_server(with_store(&url, RUN), " on s3://");
}
