//! Output that takes no text: a full pipe whose reader does not read.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{SIGTERM, kill},
    unistd::Pid,
};

#[cfg(feature = "redis")]
use super::fixture::onelock;
use super::fixture::{Locks, Running, eventually, full_pipe, output};

fn ended_with(child: &mut Child, code: i32) -> bool {
    let ended = child.try_wait().unwrap();
    if let Some(status) = ended {
        assert_eq!(status.code(), Some(code), "{status}");
    }
    ended.is_some()
}

#[test]
fn a_run_ends_although_no_message_can_be_written() {
    let locks = Locks::new();
    let (_reader, stderr) = full_pipe();
    for (arguments, code) in [(&["-vv", "x", "no-such-command"][..], 127), (&["-vv", "-F", "x", "true"], 0)] {
        let mut command = locks.run([]);
        let stderr = stderr.try_clone().unwrap();
        let mut run = command.args(arguments).stdin(Stdio::null()).stderr(stderr).spawn().unwrap();
        eventually("onelock has ended", || ended_with(&mut run, code));
    }
}

#[test]
fn messages_are_in_their_order_and_complete() {
    let locks = Locks::new();
    let lines = |run: &mut Command| String::from_utf8(output(run).stderr).unwrap();
    let text = lines(&mut locks.run(["-vv", "x", "sh", "-c", "echo command >&2; exit 3"]));
    let command = text.find("command\n").unwrap();
    assert!(text[..command].contains("onelock: debug: ") && text.ends_with('\n'), "{text}");
    assert!(text.lines().all(|line| line == "command" || line.starts_with("onelock: ")), "{text}");
}

#[cfg(feature = "redis")]
const TTL: std::time::Duration = std::time::Duration::from_millis(600);

/// Waits until the lock has been held through several leases.
#[cfg(feature = "redis")]
fn expect_renewals(url: &str) {
    const LEASES: f64 = 5.0;
    let status = || {
        let status = output(&mut onelock(["status", "--json", "--url", url, "x"]));
        serde_json::from_slice::<serde_json::Value>(&status.stdout).unwrap()
    };
    eventually("the lock is held", || status()["held"] == true);
    let token = status()["token"].clone();
    eventually("the lease was renewed", || {
        let now = status();
        assert_eq!(now["token"], token, "the lock was lost: {now}");
        now["held_for"].as_f64().unwrap() > LEASES * TTL.as_secs_f64()
    });
}

#[cfg(feature = "redis")]
#[test]
// verifies: stuck-output
fn messages_that_are_not_read_stop_no_renewal() {
    let (locks, server) = (Locks::new(), test_support::redis::RedisServer::start());
    let (url, end) = (format!("redis://{}", server.addr()), locks.dir.path().join("end"));
    let job = format!("until [ -e {} ]; do sleep 0.01; done; exit 3", end.display());
    let (_reader, stderr) = full_pipe();
    let ttl = humantime::format_duration(TTL).to_string();
    let mut run = onelock(["run", "--url", &url, "--ttl", &ttl, "-vv", "x", "sh", "-c", &job]);
    let mut run = run.stdin(Stdio::null()).stderr(stderr).spawn().unwrap();
    expect_renewals(&url);
    std::fs::write(&end, "").unwrap();
    eventually("onelock has ended", || ended_with(&mut run, 3));
}

#[cfg(feature = "redis")]
#[test]
// verifies: stuck-output
fn a_client_that_does_not_read_keeps_its_lock() {
    let server = test_support::redis::RedisServer::start();
    let url = format!("redis://{}", server.addr());
    let (_reader, stdout) = full_pipe();
    let ttl = humantime::format_duration(TTL).to_string();
    let mut hold = onelock(["hold", "--url", &url, "--ttl", &ttl, "--on-loss", "tell", "x"]);
    let mut hold = hold.stdin(Stdio::piped()).stdout(stdout).spawn().unwrap();
    expect_renewals(&url);
    drop(hold.stdin.take());
    eventually("onelock has ended", || ended_with(&mut hold, 0));
}

#[test]
fn a_signal_ends_a_wait_whose_messages_are_not_read() {
    let locks = Locks::new();
    let mut holder = Running::start(&mut locks.run(["x", "sh", "-c", "echo held; exec sleep 1000"]));
    holder.expect_line("held");
    let (_reader, stderr) = full_pipe();
    let mut waiter = locks.run(["-vv", "x", "true"]);
    let mut waiter = waiter.stdin(Stdio::null()).stderr(stderr).spawn().unwrap();
    let queue = locks.dir.path().join("locks/x.queue");
    eventually("it waits", || queue.exists());
    kill(Pid::from_raw(waiter.id().cast_signed()), SIGTERM).unwrap();
    let mut ended = None;
    eventually("onelock has ended", || {
        ended = waiter.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().signal(), Some(SIGTERM as i32));
}
