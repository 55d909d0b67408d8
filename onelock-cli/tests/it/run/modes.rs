//! Shared locks and permits, also with `flock -s`.

use std::process::Command;

use serde_json::Value;

use super::fixture::{Locks, Running, code, eventually, onelock, output, stdout};

/// Starts a command that holds the lock `x` with these options until it is killed.
fn hold<const N: usize>(locks: &Locks, options: [&str; N]) -> Running {
    let mut command = locks.run(options);
    let mut holder = Running::start(command.args(["x", "--", "sh", "-c", "echo held; exec sleep 1000"]));
    holder.expect_line("held");
    holder
}

fn attempt<const N: usize>(locks: &Locks, options: [&str; N]) -> i32 {
    code(locks.run(["-n"]).args(options).args(["x", "true"]))
}

#[test]
// verifies: P12
fn readers_share_a_lock_and_a_writer_waits() {
    let locks = Locks::new();
    let (first, second) = (hold(&locks, ["-s"]), hold(&locks, ["--shared"]));
    assert_eq!(attempt(&locks, []), 1);
    assert_eq!(attempt(&locks, ["-x"]), 1);
    assert_eq!(attempt(&locks, ["--permits", "9"]), 1);
    let mut writer = Running::start(&mut locks.run(["-v", "x", "echo", "writing"]));
    writer.expect_waiting();
    eventually("the writer keeps readers out", || attempt(&locks, ["-s"]) == 1);
    drop(first);
    assert_eq!(attempt(&locks, ["-s"]), 1);
    drop(second);
    writer.expect_line("writing");
    assert_eq!(writer.wait().0.code(), Some(0));
    assert_eq!(attempt(&locks, ["-s"]), 0);
}

#[test]
// verifies: P12
fn as_many_commands_run_as_there_are_permits() {
    let locks = Locks::new();
    let (first, _second) = (hold(&locks, ["--permits", "2"]), hold(&locks, ["--permits", "2"]));
    assert_eq!(attempt(&locks, ["--permits", "2"]), 1);
    assert_eq!(attempt(&locks, ["-s"]), 1);
    let disagreeing = output(locks.run(["-n", "--permits", "3"]).args(["x", "true"]));
    let message = String::from_utf8(disagreeing.stderr).unwrap();
    assert_eq!(disagreeing.status.code(), Some(78), "{message}");
    assert!(message.contains("has 2 permits") && message.contains("one of 3"), "{message}");
    drop(first);
    eventually("the permit of the killed command is free", || attempt(&locks, ["--permits", "2"]) == 0);
}

#[test]
// verifies: P12
fn flock_with_its_shared_mode_is_one_of_the_readers() {
    let locks = Locks::new();
    let flock = |options: &[&str]| {
        Command::new("flock").args(options).arg(locks.file()).args(["echo", "held"]).status().unwrap().success()
    };
    let reader = hold(&locks, ["-s"]);
    assert!(flock(&["-n", "-s"]));
    assert!(!flock(&["-n"]));
    drop(reader);
    eventually("the lock is free", || flock(&["-n"]));

    let mut reader = Running::start(Command::new("flock").args(["-s", "-F"]).arg(locks.file()).args([
        "sh",
        "-c",
        "echo held; exec sleep 1000",
    ]));
    reader.expect_line("held");
    assert_eq!(attempt(&locks, ["-s"]), 0);
    assert_eq!(attempt(&locks, []), 1);
    assert_eq!(attempt(&locks, ["--permits", "2"]), 1);
}

#[test]
// verifies: P12
fn a_lock_that_only_flock_used_is_listed_in_its_mode() {
    let locks = Locks::new();
    assert_eq!(code(locks.run(["other"]).arg("true")), 0, "this makes the directory");
    for (option, mode) in [("-s", "shared"), ("-x", "excl")] {
        let mut holder = Command::new("flock");
        holder.args([option, "-F"]).arg(locks.file()).args(["sh", "-c", "echo held; exec sleep 1000"]);
        let mut holder = Running::start(&mut holder);
        holder.expect_line("held");
        let listed = stdout(&mut onelock(["list", "--url", &locks.url()]));
        let row = listed.lines().find(|line| line.contains(" without a record ")).expect(&listed);
        assert!(row.contains(&format!(" {mode} ")), "{row}");
    }
}

#[test]
fn the_last_of_the_options_of_flock_counts() {
    let locks = Locks::new();
    let _reader = hold(&locks, ["-s"]);
    assert_eq!(attempt(&locks, ["-s", "-x"]), 1);
    assert_eq!(attempt(&locks, ["-s", "-e"]), 1);
    assert_eq!(attempt(&locks, ["-x", "-s"]), 0);
}

#[test]
fn wrong_numbers_of_permits_are_usage_errors() {
    let locks = Locks::new();
    for (options, message) in [
        (vec!["--permits", "0"], "from 1 to 65535"),
        (vec!["--permits", "four"], "from 1 to 65535"),
        (vec!["--permits", "70000"], "from 1 to 65535"),
        (vec!["--permits", "2", "-s"], "cannot be used with"),
    ] {
        let refused = output(locks.run([]).args(&options).args(["x", "true"]));
        let shown = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(64), "{options:?}: {shown}");
        assert!(shown.contains(message), "{options:?}: {shown}");
    }
    assert!(!locks.file().exists());
}

#[cfg(feature = "redis")]
#[test]
// verifies: P11, P12
fn fair_is_refused_where_the_store_lacks_it() {
    let url = format!("redis://127.0.0.1:{}?compat=redis-py", test_support::free_port());
    for options in [vec!["--fair"], vec!["--fair", "-n"]] {
        let refused = output(onelock(["run", "--url", &url]).args(&options).args(["x", "echo", "ran"]));
        let shown = String::from_utf8(refused.stderr).unwrap();
        assert_eq!((refused.status.code(), &*refused.stdout), (Some(78), &b""[..]), "{options:?}: {shown}");
        assert!(shown.contains("(fair) is not possible on this store"), "{options:?}: {shown}");
    }
}

#[test]
// verifies: P9, P12, contention
fn fair_commands_on_files_run_in_the_order_of_arrival() {
    let locks = Locks::new();
    let holder = hold(&locks, []);
    let wait = || {
        let command = ["x", "--", "sh", "-c", "echo $ONELOCK_TOKEN"];
        let mut waiter = Running::start(locks.run(["--fair", "-v"]).args(command));
        waiter.expect_waiting();
        waiter
    };
    let mut waiters: Vec<_> = (0..5).map(|_| wait()).collect();
    // Dropping it kills the command.
    drop(waiters.remove(2));
    drop(holder);
    let tokens: Vec<u64> = waiters.iter_mut().map(|waiter| waiter.line().trim().parse().unwrap()).collect();
    assert!(tokens.is_sorted(), "{tokens:?}");
    eventually("the queue is empty", || attempt(&locks, []) == 0);
}

#[cfg(feature = "redis")]
#[test]
// verifies: P12, contention
fn fair_commands_run_in_the_order_of_arrival() {
    let server = test_support::redis::RedisServer::start();
    let url = format!("redis://{}", server.addr());
    let run = |options: &[&str], command: &[&str]| {
        let mut run = onelock(["run", "--url", &url]);
        run.args(options).args(["x", "--"]).args(command);
        run
    };
    let mut holder = Running::start(&mut run(&[], &["sh", "-c", "echo held; exec sleep 1000"]));
    holder.expect_line("held");
    let mut waiters = Vec::new();
    for place in 1..=4 {
        waiters.push(Running::start(&mut run(&["--fair"], &["sh", "-c", "echo $ONELOCK_TOKEN"])));
        let queue = ["ZCARD", "onelock:{x}:q"];
        eventually("the command has its place", || server.command(&queue) == format!(":{place}\r\n"));
    }
    holder.signal(nix::sys::signal::SIGTERM);
    let tokens: Vec<u64> = waiters.iter_mut().map(|waiter| waiter.line().trim().parse().unwrap()).collect();
    assert!(tokens.is_sorted(), "{tokens:?}");
}

#[test]
// verifies: P12
fn status_and_list_show_every_holder() {
    let locks = Locks::new();
    let url = locks.url();
    let (_one, _two) = (hold(&locks, ["-s", "--owner", "one"]), hold(&locks, ["-s", "--owner", "two"]));
    let shown = stdout(&mut onelock(["status", "--url", &url, "x"]));
    let listed = stdout(&mut onelock(["list", "--url", &url]));
    assert_eq!(listed.lines().count(), 3, "{listed}");
    for owner in ["one", "two"] {
        let line = shown.lines().find(|line| line.starts_with(&format!("x is held by {owner} for "))).expect(&shown);
        assert!(line.ends_with(", shared"), "{line}");
        let row = listed.lines().find(|line| line.starts_with(&format!("x     {owner} "))).expect(&listed);
        assert!(row.contains("  shared  "), "{row}");
    }
    let json: Value = serde_json::from_str(&stdout(&mut onelock(["status", "--json", "--url", &url, "x"]))).unwrap();
    let mut owners = vec![&json["owner"], &json["others"][0]["owner"]];
    owners.sort_by_key(|owner| owner.to_string());
    assert_eq!(owners, ["one", "two"]);
    assert_eq!((&json["holders"], &json["mode"]), (&2.into(), &"shared".into()), "{json}");
}
