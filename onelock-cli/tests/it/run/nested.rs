//! A command that asks for a lock that it runs under: an error, and never an endless wait.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Output},
};

use nix::unistd::geteuid;

use super::fixture::{Locks, Running, code, onelock, output, stdout};

const ONELOCK: &str = env!("CARGO_BIN_EXE_onelock");

#[track_caller]
fn assert_refused(ran: &Output, name: &str) {
    let message = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(64), "{message}");
    let expected = format!("onelock: the lock \"{name}\" is held by the onelock that runs this command");
    assert!(message.starts_with(&expected) && message.lines().count() == 1, "{message}");
}

#[test]
// verifies: own-lock
fn the_own_lock_is_refused_at_once() {
    let locks = Locks::new();
    let url = locks.url();
    for wait in [&["-n"][..], &[], &["-w", "1h"], &["-v"], &["-F"]] {
        for outer in [&[][..], &["--owner", "me"], &["-F"]] {
            let mut command = onelock(["run", "--url", &url]);
            command.args(outer).args(["x", "--", ONELOCK, "run", "--url", &url]).args(wait).args(["x", "true"]);
            assert_refused(&output(&mut command), "x");
        }
    }
}

#[test]
// verifies: own-lock
fn another_spelling_of_the_store_is_the_same_lock() {
    let locks = Locks::new();
    fs::create_dir(locks.dir.path().join("locks")).unwrap();
    symlink("locks", locks.dir.path().join("link")).unwrap();
    let linked = format!("file://{}/./link?prefix=a/", locks.dir.path().display());
    let ran = output(&mut locks.run(["a/x", "--", ONELOCK, "run", "--url", &linked, "x", "true"]));
    assert_refused(&ran, "x");
}

#[test]
fn other_names_and_other_stores_work_inside() {
    let (locks, other) = (Locks::new(), Locks::new());
    assert_eq!(code(&mut locks.run(["x", "--", ONELOCK, "run", "--url", &other.url(), "x", "true"])), 0);
    assert_eq!(code(&mut locks.run(["x", "--", ONELOCK, "run", "--url", &locks.url(), "y", "true"])), 0);
}

#[test]
// verifies: own-lock
fn every_outer_level_is_refused() {
    let (locks, other) = (Locks::new(), Locks::new());
    let (url, other_url) = (locks.url(), other.url());
    for (url_of_name, name) in [(&url, "x"), (&url, "y"), (&other_url, "z")] {
        let mut command = locks.run(["x", "--", ONELOCK, "run", "--url", &url, "y"]);
        command.args([ONELOCK, "run", "--url", &other_url, "z", ONELOCK, "run", "--url", url_of_name, name, "true"]);
        assert_refused(&output(&mut command), name);
    }
}

/// A user who may not write to the directory of the lock file leaves no record.
#[test]
// verifies: own-lock
fn an_outer_lock_without_a_record_is_refused() {
    if !geteuid().is_root() {
        return;
    }
    let locks = Locks::new();
    let program = locks.program_for_all();
    let [own, other] = ["own", "other"].map(|name| {
        let file = locks.dir.path().join(name);
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        file.to_str().unwrap().to_owned()
    });
    let run = |options: &[&str], file: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "54321", "--regid", "54321", "--clear-groups"]).arg(&program).arg("run");
        command.args(options).arg(file).env_remove("ONELOCK_URL").env_remove("ONELOCK_URL_FILE");
        command
    };
    for wait in [&["-n"][..], &[], &["-w", "1h"], &["-F"]] {
        for outer in [&[][..], &["-F"]] {
            let mut command = run(outer, &own);
            command.arg(&program).arg("run").args(wait).args([&own, "true"]);
            assert_refused(&output(&mut command), &own);
        }
    }
    // Another program without a record is waited for, and refuses a job that does not wait.
    let holder = super::paths::flock(&[], Path::new(&other));
    let inner = |wait: &str| {
        let mut command = run(&[], &own);
        command.arg(&program).args(["run", wait, &other, "true"]);
        command
    };
    assert_eq!(code(&mut inner("-n")), 1);
    let mut waiter = Running::start(&mut inner("-v"));
    waiter.expect_waiting();
    drop(holder);
    waiter.ends_with(0);
}

#[test]
fn a_process_that_outlives_the_lock_can_acquire_it() {
    let locks = Locks::new();
    // The inner process waits until the outer lock is free, with the outer lock in its environment.
    let inner = format!(
        "(exec >/dev/null 2>&1; flock {} true; exec {ONELOCK} run --url {} x touch {}) &",
        locks.file().display(),
        locks.url(),
        locks.dir.path().join("ran").display()
    );
    assert_eq!(code(&mut locks.run(["x", "-c", &inner])), 0);
    super::fixture::eventually("the inner command ran", || locks.dir.path().join("ran").exists());
}

#[test]
fn another_holder_of_the_name_is_contention() {
    let locks = Locks::new();
    let mut holder = Running::start(&mut locks.run(["x", "-c", "echo held; sleep 1000"]));
    holder.expect_line("held");
    let mut command = locks.run(["-n", "x", "true"]);
    command.env("ONELOCK_HELD", r#"[{"name":"x","token":1,"owner":null}]"#);
    assert_eq!(code(&mut command), 1);
}

#[test]
fn the_environment_lists_all_outer_locks() {
    let locks = Locks::new();
    let mut command = locks.run(["x", "--", ONELOCK, "run", "--url", &locks.url(), "y"]);
    let list = stdout(command.args(["sh", "-c", "echo $ONELOCK_HELD"]));
    let names = list.matches("\"name\":\"x\"").count() + list.matches("\"name\":\"y\"").count();
    assert_eq!(names, 2, "{list}");
}

#[cfg(feature = "redis")]
#[test]
// verifies: own-lock
fn another_address_of_the_server_is_the_same_lock() {
    let server = test_support::redis::RedisServer::start();
    let [by_name, by_address] = ["localhost", "127.0.0.1"].map(|host| format!("redis://{host}:{}", server.port()));
    let ran =
        output(&mut onelock(["run", "--url", &by_name, "x", "--", ONELOCK, "run", "--url", &by_address, "x", "true"]));
    assert_refused(&ran, "x");
}

#[cfg(feature = "redis")]
#[test]
// verifies: own-lock
fn a_permit_is_refused_only_if_this_process_runs_under_all() {
    let server = test_support::redis::RedisServer::start();
    let url = format!("redis://{}", server.addr());
    let run = |ttl: &str| {
        let mut run = onelock(["run", "--url", &url, "--permits", "2", "--ttl", ttl]);
        run.arg("x");
        run
    };
    let inner = [ONELOCK, "run", "--url", &url, "--permits", "2", "-n", "x", "true"];
    // The holder of the shorter lease is named first.
    for (ttl, ttl_of_other) in [("20s", "60s"), ("60s", "20s")] {
        let mut other = Running::start(run(ttl_of_other).args(["sh", "-c", "echo held; exec sleep 1000"]));
        other.expect_line("held");
        assert_eq!(code(run(ttl).args(inner)), 1, "{ttl}");
        other.signal(nix::sys::signal::SIGTERM);
        other.wait();
    }
    assert_refused(&output(run("20s").args(&inner[..6]).arg("x").args(inner)), "x");
}

#[cfg(feature = "redis")]
#[test]
// verifies: own-lock
fn a_permit_that_a_waiting_writer_keeps_is_refused() {
    let server = test_support::redis::RedisServer::start();
    let url = format!("redis://{}", server.addr());
    let locks = Locks::new();
    let waits = locks.dir.path().join("waits");
    let inner = format!(
        "echo held; until [ -e {} ]; do sleep 0.01; done; exec {ONELOCK} run --url {url} --permits 3 -w 60 x true",
        waits.display()
    );
    let mut outer = Running::start(onelock(["run", "--url", &url, "--permits", "3", "x", "-c"]).arg(inner));
    outer.expect_line("held");
    let mut writer = Running::start(&mut onelock(["run", "--url", &url, "-v", "x", "echo", "writing"]));
    writer.expect_waiting();
    fs::write(waits, "").unwrap();
    let message = outer.ends_with(64);
    assert!(message.contains("and a client that waits for it keeps the free permits"), "{message}");
    writer.expect_line("writing");
}
