//! What an operator asks at night: who holds the lock, who had it last, how did that end, and how
//! to wait for it or take it away.

use std::process::Command;

use nix::sys::signal::SIGKILL;
use serde_json::Value;

use super::fixture::{Locks, Running, code, eventually, full_pipe, onelock, output, stdout};

pub(super) fn status(url: &str) -> Value {
    serde_json::from_slice(&output(&mut onelock(["status", "--json", "--url", url, "x"])).stdout).unwrap()
}

pub(super) fn hold(url: &str, args: &[&str]) -> Running {
    let mut command = onelock(["run", "--url", url]);
    let mut holder = Running::start(command.args(args).args(["x", "sh", "-c", "echo held; sleep 1000"]));
    holder.expect_line("held");
    holder
}

fn host() -> String {
    nix::unistd::gethostname().unwrap().into_string().unwrap()
}

#[test]
fn the_process_stands_apart_from_the_owner() {
    let locks = Locks::new();
    let url = locks.url();
    let holder = hold(&url, &["--owner", "nightly"]);
    let held = status(&url);
    assert_eq!((&held["owner"], &held["pid"]), (&"nightly".into(), &holder.child.id().into()), "{held}");
    assert_eq!((&held["host"], &held["command"]), (&host().into(), &"sh".into()), "{held}");
    assert_eq!((&held["store"], held["started"].is_u64()), (&url.clone().into(), true), "{held}");
    let text = stdout(&mut onelock(["status", "--url", &url, "x"]));
    assert!(text.contains(&format!("\n  process  {} on {}, user ", holder.child.id(), host())), "{text}");
    let listed: Value = serde_json::from_str(&stdout(&mut onelock(["list", "--json", "--url", &url]))).unwrap();
    assert_eq!((&listed["pid"], &listed["store"]), (&held["pid"], &held["store"]));
}

/// Arguments may contain secrets, and others can read the store.
#[test]
fn the_arguments_of_the_command_are_not_recorded() {
    let locks = Locks::new();
    let mut holder = Running::start(&mut locks.run(["x", "sh", "-c", "echo held; sleep 1000", "hunter2"]));
    holder.expect_line("held");
    let record = std::fs::read_to_string(locks.dir.path().join("locks/x.info")).unwrap();
    assert!(record.contains("command") && !record.contains("hunter2"), "{record}");
}

#[test]
fn a_free_lock_tells_its_last_holder_and_its_end() {
    let locks = Locks::new();
    let url = locks.url();
    assert_eq!(code(&mut locks.run(["--owner", "first", "x", "true"])), 0);
    let released = status(&url);
    let last = &released["last"];
    assert_eq!((&last["owner"], &last["end"], &last["command"]), (&"first".into(), &"released".into(), &"true".into()));
    assert!(last["ended_at"].as_f64() >= last["since"].as_f64() && last["since"].is_f64(), "{last}");
    let text = String::from_utf8(output(&mut onelock(["status", "--url", &url, "x"])).stdout).unwrap();
    assert!(text.contains("\n  last     first since ") && text.contains("; released the lock at 20"), "{text}");

    let holder = hold(&url, &["--owner", "second"]);
    assert_eq!(status(&url)["last"], Value::Null);
    holder.signal(SIGKILL);
    eventually("the lock is free", || locks.is_free());
    let last = status(&url)["last"].clone();
    assert_eq!((&last["owner"], &last["end"]), (&"second".into(), &"crashed".into()), "{last}");
    let text = String::from_utf8(output(&mut onelock(["status", "--url", &url, "x"])).stdout).unwrap();
    assert!(text.contains("; ended without releasing the lock"), "{text}");
}

#[test]
fn a_full_pipe_does_not_keep_the_command_from_its_start() {
    let locks = Locks::new();
    let holder = hold(&locks.url(), &[]);
    holder.signal(SIGKILL);
    eventually("the lock is free", || locks.is_free());
    // Standard error takes nothing, so the message of the takeover waits.
    let (_reader, writer) = full_pipe();
    let started = locks.file().with_extension("started");
    let mut job = locks.run(["x", "touch", started.to_str().unwrap()]);
    let mut job = job.stdin(std::process::Stdio::null()).stderr(writer).spawn().unwrap();
    eventually("the command has started", || started.exists());
    job.kill().unwrap();
    job.wait().unwrap();
}

#[test]
fn run_tells_from_whom_it_took_over() {
    let locks = Locks::new();
    let crash = |owner: &str| {
        let holder = hold(&locks.url(), &["--owner", owner]);
        holder.signal(SIGKILL);
        eventually("the lock is free", || locks.is_free());
    };
    crash("first");
    let message = Running::start(&mut locks.run(["x", "true"])).ends_with(0);
    let expected = "onelock: \"x\" was taken over from a holder that ended without releasing it: first since ";
    assert!(message.starts_with(expected) && message.lines().count() == 1, "{message}");
    crash("second");
    assert_eq!(Running::start(&mut locks.run(["-q", "x", "true"])).ends_with(0), "");
    // After a release there is nothing to tell, and a command of --no-fork tells no end.
    assert_eq!(Running::start(&mut locks.run(["x", "true"])).ends_with(0), "");
    assert_eq!(Running::start(&mut locks.run(["-F", "x", "true"])).ends_with(0), "");
    assert_eq!(status(&locks.url())["last"]["end"], "ended");
    assert_eq!(Running::start(&mut locks.run(["x", "true"])).ends_with(0), "");
}

#[test]
fn list_is_sorted_by_age_and_shows_what_is_stale() {
    let locks = Locks::new();
    let held = |name: &str| {
        let mut holder = Running::start(&mut locks.run([name, "-c", "echo held; sleep 1000"]));
        holder.expect_line("held");
        holder
    };
    let _holders = ["z", "m", "a"].map(held);
    let names = |args: &[&str]| {
        let listed = stdout(onelock(["list", "--json", "--url", &locks.url()]).args(args));
        let name = |line: &str| serde_json::from_str::<Value>(line).unwrap()["name"].as_str().unwrap().to_owned();
        listed.lines().map(name).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["a", "m", "z"]);
    assert_eq!(names(&["--sort", "age"]), ["z", "m", "a"]);
    assert_eq!(names(&["--stale"]), [""; 0]);
    assert_eq!(names(&["--stale=0s"]), ["a", "m", "z"]);
    let table = stdout(&mut onelock(["list", "--url", &locks.url()]));
    assert!(table.starts_with("NAME  HELD BY ") && table.lines().count() == 4, "{table}");
}

#[test]
fn wait_ends_when_the_lock_is_free() {
    let locks = Locks::new();
    let url = locks.url();
    assert_eq!(code(&mut onelock(["wait", "--url", &url, "x"])), 73, "no lock was ever taken there");
    let holder = hold(&url, &[]);
    assert_eq!(code(&mut onelock(["wait", "--url", &url, "-w", "0.1", "x"])), 1);
    let mut waiter = Running::start(&mut onelock(["wait", "-v", "--url", &url, "x"]));
    waiter.expect_waiting();
    drop(holder);
    waiter.ends_with(0);
    assert_eq!(code(&mut onelock(["wait", "--url", &url, "x"])), 0);
}

#[test]
fn wait_follows_a_lock_file_of_flock() {
    let locks = Locks::new();
    let file = locks.dir.path().join("backup.pid");
    let holder = super::paths::flock(&[], &file);
    let mut waiter = Running::start(onelock(["wait", "-v"]).arg(&file));
    waiter.expect_waiting();
    drop(holder);
    waiter.ends_with(0);
}

#[cfg(feature = "redis")]
pub(super) mod breaking {
    use test_support::redis::RedisServer;

    use super::*;

    pub(in crate::run) fn refused(command: &mut Command, expected: i32, text: &str) {
        let refused = output(command);
        let message = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(expected), "{message}");
        assert!(message.contains(text), "{message}");
    }

    pub(in crate::run) fn break_by_alice(url: &str, args: &[&str]) -> Command {
        let mut command = onelock(["break", "--url", url, "--by", "alice"]);
        command.args(args).arg("x");
        command
    }

    #[test]
    fn break_compares_what_the_operator_saw() {
        let server = RedisServer::start();
        let url = format!("redis://{}", server.addr());
        let break_if = |args: &[&str]| break_by_alice(&url, args);
        refused(&mut break_if(&["--yes"]), 1, "was not broken: it is free");
        let mut holder = hold(&url, &["--owner", "nightly"]);
        let held = status(&url);
        let token = held["token"].as_u64().unwrap();
        refused(&mut break_if(&[]), 64, "say whose lock is broken: give --if-holder");
        for wrong in [&["--if-holder", "weekly"][..], &["--if-token", "7"], &["--if-version", "7"]] {
            refused(&mut break_if(wrong), 1, "it has changed, and is now held by nightly for ");
            let half_right = [wrong, &["--if-holder", "nightly"]].concat();
            if wrong[0] != "--if-holder" {
                refused(&mut break_if(&half_right), 1, "it has changed");
            }
        }
        assert_eq!(holder.child.try_wait().unwrap(), None);
        let broke = stdout(&mut break_if(&["--if-token", &token.to_string(), "--if-holder", "nightly"]));
        let expected = "broke \"x\", which was held by nightly for ";
        assert!(broke.starts_with(expected) && broke.ends_with("its holder is told: broken by alice\n"), "{broke}");
        let message = holder.ends_with(75);
        assert!(message.contains("was lost: broken by alice"), "{message}");
        let mut next = hold(&url, &[]);
        assert_eq!(code(&mut break_if(&["-y"])), 0);
        assert_eq!(next.child.wait().unwrap().code(), Some(75));
    }
}

/// The tables keep the row or the item of a free lock.
#[cfg(all(feature = "dynamo", feature = "postgres"))]
#[test]
fn tables_tell_how_the_last_holder_ended() {
    let server = test_support::postgres::PostgresServer::start();
    for url in [super::init::url(), server.url()] {
        stdout(&mut onelock(["init", "--url", &url]));
        let last = || status(&url)["last"].clone();
        assert_eq!(last(), Value::Null, "{url}");
        assert_eq!(code(&mut onelock(["run", "--url", &url, "--owner", "first", "x", "true"])), 0);
        assert_eq!((&last()["owner"], &last()["end"]), (&"first".into(), &"released".into()), "{url}: {}", last());
        let holder = hold(&url, &["--owner", "second"]);
        stdout(&mut onelock(["break", "--url", &url, "--if-holder", "second", "--by", "alice", "x"]));
        assert_eq!((&last()["end"], &last()["broken_by"]), (&"broken".into(), &"alice".into()), "{url}: {}", last());
        holder.ends_with(75);
        let holder = hold(&url, &["--owner", "third", "--ttl", "2s"]);
        holder.signal(SIGKILL);
        eventually("the lease has ended", || status(&url)["held"] == false);
        assert_eq!((&last()["owner"], &last()["end"]), (&"third".into(), &"crashed".into()), "{url}: {}", last());
    }
}

#[test]
fn watch_ends_with_the_reader_of_its_output() {
    let locks = Locks::new();
    let holder = hold(&locks.url(), &[]);
    // The shell waits for both, and neither ends by SIGPIPE.
    let watch = format!("{} watch --interval 100ms --url {}", env!("CARGO_BIN_EXE_onelock"), locks.url());
    let line = format!("trap '' PIPE; {watch} | head -n 1");
    Running::start(Command::new("sh").args(["-c", &line])).ends_with(0);
    drop(holder);
}
