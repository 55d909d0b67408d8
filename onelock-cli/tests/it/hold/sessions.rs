//! The life of `onelock hold --json`, and what becomes of its client and its locks.

use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::{SIGHUP, SIGINT, SIGKILL, SIGTERM, kill};
use serde_json::{Value, json};

use super::fixture::{Hold, Process, client};
use crate::run::fixture::{Locks, code, eventually, is_alive, onelock, output, parse_pid};

#[test]
fn the_end_of_the_input_releases_every_lock() {
    let locks = Locks::new();
    let mut hold = Hold::start(&locks.url(), &[]);
    hold.acquire(json!({}));
    hold.acquire(json!({ "name": "y" }));
    let waiting = hold.send(json!({ "op": "acquire", "name": "x" }));
    hold.process.close_input();
    assert_eq!(hold.reply(waiting)["error"]["kind"], json!("cancelled"));
    hold.process.ends_with(0);
    assert!(locks.is_free());
}

/// The replies fill the pipe and the queue, so that the requests are not read to their end.
#[test]
fn the_end_of_the_input_counts_beside_unread_replies() {
    let locks = Locks::new();
    let mut hold = Hold::start(&locks.url(), &[]);
    hold.acquire(json!({}));
    for _ in 0..6_000 {
        hold.send(json!({ "op": "ping" }));
    }
    hold.process.close_input();
    eventually("the lock is free", || locks.is_free());
}

/// The client reads on after the end of its input was noticed, and stops again.
#[test]
fn the_end_of_the_input_counts_for_later_locks() {
    // The second end of the input may come before the lock, whose acquisition it cancels.
    let is_held = || {
        let locks = Locks::new();
        let mut hold = Hold::start(&locks.url(), &[]);
        hold.acquire(json!({ "name": "early" }));
        let fill = |hold: &mut Hold| (0..3_000).for_each(|_| hold.process.write("{}"));
        fill(&mut hold);
        let late = hold.send(json!({ "op": "acquire", "name": "x" }));
        fill(&mut hold);
        hold.process.close_input();
        eventually("the first lock is free", || code(&mut locks.run(["-n", "early", "true"])) == 0);
        let held = hold.reply(late)["ok"]["held"] == json!(true);
        eventually("the other lock is free", || code(&mut locks.run(["-n", "x", "true"])) == 0);
        held
    };
    assert!((0..20).any(|_| is_held()), "every acquisition was cancelled");
}

#[test]
fn a_signal_tells_the_client_before_the_release() {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let locks = Locks::new();
        let mut hold = Hold::start(&locks.url(), &[]);
        hold.acquire(json!({}));
        hold.process.signal(signal);
        assert_eq!(hold.event("lost")["reason"], json!("released"));
        hold.process.ends_with(0);
        assert!(locks.is_free());
    }
}

#[test]
fn a_client_without_pings_loses_its_locks() {
    let locks = Locks::new();
    let mut hold = Hold::start(&locks.url(), &["--heartbeat", "5s"]);
    // No lock, no limit.
    std::thread::sleep(std::time::Duration::from_secs(6));
    let held = hold.acquire(json!({}));
    for _ in 0..10 {
        std::thread::sleep(std::time::Duration::from_millis(700));
        assert_eq!(hold.ask(json!({ "op": "ping" })), json!({}));
    }
    assert_eq!(hold.ask(json!({ "op": "check", "guard": held["guard"] }))["held"], json!(true));
    assert_eq!(hold.event("lost")["reason"], json!("client_silent"));
    eventually("the lock is free", || locks.is_free());
    let released = hold.ask(json!({ "op": "release", "guard": held["guard"] }));
    assert_eq!((&released["released"], &released["lost"]["reason"]), (&json!(false), &json!("client_silent")));
    hold.acquire(json!({}));
}

/// A client whose descendant keeps both streams, and ignores SIGTERM. It acquires the lock `x`, and
/// prints the pid of the descendant.
const CLIENT: &str = r#"
import json, os, signal, subprocess, sys
hold = subprocess.Popen(["onelock", "hold", "--json", *sys.argv[1:]], stdin=-1, stdout=-1, encoding="utf-8", bufsize=1)
hold.stdout.readline()
for request in json.loads(os.environ.get("LOCKS", '[{"name":"x"}]')):
    hold.stdin.write(json.dumps(request | {"id": 1, "op": "acquire"}) + "\n")
    while "ok" not in (line := json.loads(hold.stdout.readline())): pass
    assert line["ok"]["held"]
ignore = lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN)
streams = [hold.stdin.fileno(), hold.stdout.fileno()]
keep = subprocess.Popen(["sleep", "1000"], pass_fds=streams, preexec_fn=ignore)
print(keep.pid, flush=True)
sys.stdin.readline()
"#;

fn python(locks: &Locks, url: &str, options: &[&str]) -> Process {
    let script = locks.script("python3", CLIENT);
    Process::start(client(&script, options).env("ONELOCK_URL", url))
}

#[test]
fn the_locks_end_with_a_client_whose_pipe_lives_on() {
    let locks = Locks::new();
    let mut client = python(&locks, &locks.url(), &[]);
    let descendant = parse_pid(&client.line());
    assert!(!locks.is_free());
    client.signal(SIGKILL);
    eventually("the lock is free", || locks.is_free());
    assert!(is_alive(descendant));
    kill(descendant, SIGKILL).unwrap();
}

#[test]
fn a_loss_ends_a_client_that_asked_for_it() {
    let locks = Locks::new();
    for (action, signal) in [("term", SIGTERM), ("kill", SIGKILL)] {
        let url = "memory:?max_hold=6s";
        let mut client = python(&locks, url, &["--on-loss", action, "--grace", "2s"]);
        let descendant = parse_pid(&client.line());
        assert_eq!(client.end().0.signal(), Some(signal as i32), "{action}");
        eventually("the descendant has ended", || !is_alive(descendant));
    }
}

#[test]
fn a_descendant_that_outlives_its_client_ends_before_the_lock() {
    let locks = Locks::new();
    let options = ["--on-loss", "term", "--grace", "5s", "--max-hold", "10s"];
    let mut client = python(&locks, &locks.url(), &options);
    let descendant = parse_pid(&client.line());
    assert_eq!(client.end().0.signal(), Some(SIGTERM as i32));
    locks.dead_before_free(&[descendant]);
}

#[test]
fn a_descendant_ends_before_the_first_of_several_locks() {
    let locks = Locks::new();
    let script = locks.script("python3", CLIENT);
    // The lock that begins to end first ends last.
    let wanted = json!([{ "name": "y", "max_hold": 66, "grace": 60 }, { "name": "x", "max_hold": 18, "grace": 2 }]);
    let mut client = client(&script, &["--on-loss", "term"]);
    let variables = [("ONELOCK_URL", locks.url()), ("LOCKS", wanted.to_string())];
    let mut client = Process::start(client.envs(variables));
    let descendant = parse_pid(&client.line());
    assert_eq!(client.end().0.signal(), Some(SIGTERM as i32));
    locks.dead_before_free(&[descendant]);
    let status = output(&mut onelock(["status", "--json", "--url", &locks.url(), "x"])).stdout;
    let status: Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["last"]["end"], json!("released"), "not lost: {status}");
}

/// A client that ignores SIGTERM, with a descendant that does. It holds many locks that all begin
/// to end. Once it was told so and was asked to end, it prints the pid of the descendant.
const PATIENT: &str = r#"
import json, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
hold = subprocess.Popen(["onelock", "hold", "--json", *sys.argv[1:]], stdin=-1, stdout=-1, encoding="utf-8", bufsize=1)
keep = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL)
stopping = 0
def read():
    global stopping
    line = json.loads(hold.stdout.readline())
    stopping += line.get("event") == "stopping"
    return line
def ask(**request):
    hold.stdin.write(json.dumps(request | {"id": 1}) + "\n")
    while (line := read()).get("id") != 1: pass
    return line["ok"]
guards = [ask(op="acquire", name=f"x{number}")["guard"] for number in range(20)]
while stopping < len(guards): read()
# A guard answers only after it has asked the client to end.
assert all(ask(op="check", guard=guard)["held"] for guard in guards)
print(keep.pid, flush=True)
sys.stdin.readline()
"#;

#[test]
fn descendants_are_remembered_once_for_all_locks() {
    let locks = Locks::new();
    let script = locks.script("python3", PATIENT);
    let options = ["--on-loss", "term", "--max-hold", "302s", "--grace", "300s"];
    let mut client = Process::start(client(&script, &options).env("ONELOCK_URL", locks.url()));
    let descendant = parse_pid(&client.line());
    let open = std::fs::read_dir(format!("/proc/{}/fd", client.hold())).unwrap();
    let targets = open.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    let handles: Vec<_> = targets.filter(|target| target.to_string_lossy().contains("pidfd")).collect();
    kill(descendant, SIGKILL).unwrap();
    assert!((1..=3).contains(&handles.len()), "two of the client, and one of its descendant: {handles:?}");
}

#[test]
fn a_thousand_locks_fit_in_one_process() {
    let mut hold = Hold::start("memory:", &["--ttl", "30s"]);
    let name = |i: u64| format!("lock-{i}");
    let ids: Vec<_> = (0..1_000).map(|i| hold.send(json!({ "op": "acquire", "name": name(i) }))).collect();
    let guards: Vec<Value> = ids.into_iter().map(|id| hold.reply(id)["ok"]["guard"].clone()).collect();
    let list = hold.ask(json!({ "op": "list" }));
    assert_eq!(list["locks"].as_array().unwrap().len(), 1_000);
    let ids: Vec<_> = guards.iter().map(|guard| hold.send(json!({ "op": "release", "guard": guard }))).collect();
    ids.into_iter().for_each(|id| assert_eq!(hold.reply(id)["ok"], json!({ "released": true })));
    assert_eq!(hold.ask(json!({ "op": "list" }))["locks"], json!([]));
}

/// The replies fill the pipe and the queue, and the lock is still renewed.
#[test]
fn a_client_that_does_not_read_keeps_its_lock() {
    let mut hold = Hold::start("memory:?ttl=4s", &[]);
    let held = hold.acquire(json!({}));
    let asked: Vec<_> = (0..3_000).map(|_| hold.send(json!({ "op": "status", "name": "x" }))).collect();
    // Longer than the lease.
    std::thread::sleep(std::time::Duration::from_secs(6));
    asked.into_iter().for_each(|id| assert_eq!(hold.reply(id)["ok"]["held"], json!(true)));
    assert_eq!(hold.ask(json!({ "op": "check", "guard": held["guard"] }))["held"], json!(true));
}
