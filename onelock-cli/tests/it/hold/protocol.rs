//! Requests, replies and events of `onelock hold --json`.

use serde_json::{Value, json};

use super::fixture::{Hold, Process};
use crate::run::fixture::{Locks, Running, eventually, onelock};

#[test]
fn the_first_line_names_store_and_capabilities() {
    let locks = Locks::new();
    let hold = Hold::start(&locks.url(), &[]);
    let url = locks.url();
    assert_eq!(hold.hello["store"], json!(url));
    assert_eq!(hold.hello["onelock"], json!(env!("CARGO_PKG_VERSION")));
    assert_eq!((&hold.hello["protocol"], &hold.hello["clock"]), (&json!([1]), &json!("boottime")));
    let capabilities = hold.hello["capabilities"].as_array().unwrap();
    assert!(capabilities.contains(&json!("fencing")) && !capabilities.contains(&json!("ttl")), "{capabilities:?}");
}

#[test]
fn a_store_that_cannot_be_opened_is_an_error_line() {
    for (url, kind, code) in [("nonsense:", "config", 78), ("file:///proc/no/locks?no=1", "config", 78)] {
        let mut refused = Process::start(&mut onelock(["hold", "--json", "--url", url]));
        let line: Value = serde_json::from_str(&refused.line()).unwrap();
        assert_eq!(line["error"]["kind"], json!(kind), "{line}");
        assert_eq!(refused.line(), "");
        refused.ends_with(code);
    }
}

#[test]
fn a_lock_is_acquired_refused_checked_and_released() {
    let locks = Locks::new();
    let (mut one, mut two) = (Hold::start(&locks.url(), &["--owner", "one"]), Hold::start(&locks.url(), &[]));
    let held = one.acquire(json!({ "data": "shown" }));
    assert!(held["token"].is_u64() && held["crashed"].is_null() && held["valid_until"].is_null(), "{held}");
    let refused = two.ask(json!({ "op": "acquire", "name": "x", "wait": 0 }));
    assert_eq!((&refused["held"], &refused["holder"]["owner"]), (&json!(false), &json!("one")));
    assert_eq!(refused["holder"]["token"], held["token"]);
    let status = two.ask(json!({ "op": "status", "name": "x" }));
    assert_eq!((&status["held"], &status["data"]), (&json!(true), &json!("shown")));
    let guard = &held["guard"];
    assert_eq!(one.ask(json!({ "op": "check", "guard": guard }))["held"], json!(true));
    for _ in 0..2 {
        assert_eq!(one.ask(json!({ "op": "release", "guard": guard })), json!({ "released": true }));
    }
    let ended = one.ask(json!({ "op": "check", "guard": guard }));
    assert_eq!((&ended["held"], &ended["lost"]["reason"]), (&json!(false), &json!("released")));
    assert_eq!(two.ask(json!({ "op": "status", "name": "x" })), json!({ "name": "x", "held": false }));
    let next = two.acquire(json!({}));
    assert!(next["token"].as_u64() > held["token"].as_u64());
}

#[test]
fn the_list_shows_locks_and_odd_entries() {
    let locks = Locks::new();
    let mut hold = Hold::start(&locks.url(), &[]);
    hold.acquire(json!({}));
    hold.acquire(json!({ "name": "other" }));
    std::os::unix::fs::symlink("/nowhere", locks.dir.path().join("locks/odd.lock")).unwrap();
    let list = hold.ask(json!({ "op": "list" }));
    let names: Vec<_> = list["locks"].as_array().unwrap().iter().map(|lock| lock["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["other", "x"]);
    assert!(list["odd"][0]["place"].as_str().unwrap().ends_with("odd.lock"), "{list}");
    assert_eq!(hold.ask(json!({ "op": "list", "prefix": "oth" }))["locks"].as_array().unwrap().len(), 1);
}

#[test]
fn a_waiter_is_told_the_holder_once() {
    let locks = Locks::new();
    let (mut one, mut two) = (Hold::start(&locks.url(), &["--owner", "one"]), Hold::start(&locks.url(), &[]));
    let held = one.acquire(json!({}));
    let waiting = two.send(json!({ "op": "acquire", "name": "x", "wait": null }));
    let event = two.event("waiting");
    assert_eq!((&event["request"], &event["holder"]["owner"]), (&json!(waiting), &json!("one")));
    // Requests go on while one waits.
    assert_eq!(two.ask(json!({ "op": "ping" })), json!({}));
    one.ask(json!({ "op": "release", "guard": held["guard"] }));
    assert_eq!(two.reply(waiting)["ok"]["held"], json!(true));
}

#[test]
fn a_cancelled_acquisition_leaves_nothing_held() {
    let locks = Locks::new();
    let (mut one, mut two) = (Hold::start(&locks.url(), &[]), Hold::start(&locks.url(), &[]));
    let held = one.acquire(json!({}));
    let waiting = two.send(json!({ "op": "acquire", "name": "x" }));
    two.event("waiting");
    two.process.write(&json!({ "id": waiting, "op": "acquire", "name": "y" }).to_string());
    assert_eq!(two.reply(waiting)["error"]["kind"], json!("protocol"), "the id is still in use");
    assert_eq!(two.ask(json!({ "op": "cancel", "request": waiting })), json!({ "cancelled": true }));
    assert_eq!(two.reply(waiting)["error"]["kind"], json!("cancelled"));
    assert_eq!(two.ask(json!({ "op": "cancel", "request": waiting })), json!({ "cancelled": false }));
    one.ask(json!({ "op": "release", "guard": held["guard"] }));
    assert!(locks.is_free());
}

#[test]
fn fair_acquisitions_come_before_the_others_in_their_order() {
    let options: [(&[&str], Value, Value); 2] = [
        (&[], json!({}), json!({ "fair": true })),
        // A request goes before the command line.
        (&["--fair"], json!({ "fair": false }), json!({})),
    ];
    for (session, unfair, fair) in options {
        let mut hold = Hold::start("memory:", session);
        let mut held = hold.acquire(json!({}));
        let mut wait = |options: &Value| {
            let mut request = json!({ "op": "acquire", "name": "x" });
            request.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
            let waiting = hold.send(request);
            while hold.event("waiting")["request"] != json!(waiting) {}
            waiting
        };
        let last = wait(&unfair);
        let order = [wait(&fair), wait(&fair), wait(&fair), last];
        for waiting in order {
            hold.ask(json!({ "op": "release", "guard": held["guard"] }));
            held = hold.reply(waiting)["ok"].clone();
            assert_eq!(held["held"], json!(true), "{session:?}: {held}");
        }
    }
}

#[test]
// verifies: P12
fn every_holder_is_shown_in_its_mode() {
    for (mode, permits) in [("shared", json!(null)), ("permit", json!(2))] {
        let locks = Locks::new();
        let (mut one, mut two) = (Hold::start(&locks.url(), &[]), Hold::start(&locks.url(), &[]));
        let request = |owner: &str| {
            let mut request = json!({ "mode": mode, "owner": owner });
            if permits.is_u64() {
                request["permits"] = permits.clone();
            }
            request
        };
        let held = one.acquire(request("one"));
        two.acquire(request("two"));
        let refused = two.ask(json!({ "op": "acquire", "name": "x", "wait": 0 }));
        let status = two.ask(json!({ "op": "status", "name": "x" }));
        let listed = two.ask(json!({ "op": "list", "prefix": "" }));
        for holder in [&refused["holder"], &status, &listed["locks"][0]] {
            assert_eq!((&holder["holders"], &holder["mode"]), (&json!(2), &json!(mode)), "{holder}");
            assert_eq!(holder["permits"], permits, "{holder}");
            let mut owners = vec![holder["owner"].as_str(), holder["others"][0]["owner"].as_str()];
            owners.sort_unstable();
            assert_eq!(owners, [Some("one"), Some("two")], "{holder}");
        }
        one.ask(json!({ "op": "release", "guard": held["guard"] }));
        let status = two.ask(json!({ "op": "status", "name": "x" }));
        assert_eq!((&status["owner"], &status["others"]), (&json!("two"), &json!(null)));
    }
}

#[test]
fn a_short_wait_ends_with_the_holder() {
    let locks = Locks::new();
    let (mut one, mut two) = (Hold::start(&locks.url(), &[]), Hold::start(&locks.url(), &[]));
    one.acquire(json!({}));
    let answer = two.ask(json!({ "op": "acquire", "name": "x", "wait": 0.05 }));
    assert_eq!(answer["held"], json!(false));
}

#[test]
fn renewals_move_the_end_of_the_validity() {
    let mut hold = Hold::start("memory:", &["--ttl", "3s"]);
    let held = hold.acquire(json!({}));
    let event = hold.event("renewed");
    assert_eq!(event["guard"], held["guard"]);
    assert!(event["valid_until"].as_u64() > held["valid_until"].as_u64(), "{event} {held}");
    assert!(event["expires_at"].as_str() > held["expires_at"].as_str(), "{event} {held}");
    // `valid_until` is a reading of CLOCK_BOOTTIME, at most a ttl from now.
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
    let now = u64::try_from(now.tv_sec()).unwrap() * 1_000_000_000;
    let until = event["valid_until"].as_u64().unwrap();
    assert!(until < now + 4_000_000_000 && until + 3_600_000_000_000 > now, "{until} {now}");
}

#[test]
fn manual_renewal_extends_only_when_asked() {
    let mut hold = Hold::start("memory:", &[]);
    let held = hold.acquire(json!({ "ttl": 30, "renew": "manual" }));
    let enough = hold.ask(json!({ "op": "ensure", "guard": held["guard"], "at_least": 1 }));
    assert_eq!(enough["valid_until"], held["valid_until"]);
    // A lease of 30 s is valid for 27 s.
    eventually("the lock is renewed", || {
        let renewed = hold.ask(json!({ "op": "ensure", "guard": held["guard"], "at_least": 26.9 }));
        assert!(renewed["remaining"].as_f64().is_some_and(|left| left >= 26.8), "{renewed}");
        renewed["valid_until"].as_u64() > held["valid_until"].as_u64()
    });
    let refused = hold.refused(json!({ "op": "ensure", "guard": held["guard"], "at_least": 3600 }));
    assert_eq!(refused["kind"], json!("config"), "{refused}");
}

#[test]
fn a_loss_is_told_once_with_its_reason() {
    let mut hold = Hold::start("memory:", &[]);
    let held = hold.acquire(json!({ "max_hold": 1, "grace": 0.3 }));
    let guard = &held["guard"];
    assert_eq!(hold.event("stopping")["guard"], *guard);
    let lost = hold.event("lost");
    assert_eq!((&lost["guard"], &lost["reason"]), (guard, &json!("max_hold")));
    let check = hold.ask(json!({ "op": "check", "guard": guard }));
    assert_eq!((&check["held"], &check["lost"]["reason"]), (&json!(false), &json!("max_hold")));
    for _ in 0..2 {
        let released = hold.ask(json!({ "op": "release", "guard": guard }));
        assert_eq!((&released["released"], &released["lost"]["reason"]), (&json!(false), &json!("max_hold")));
    }
    hold.acquire(json!({}));
}

#[test]
fn an_operator_breaks_a_lock_by_its_version() {
    let mut hold = Hold::start("memory:", &["--ttl", "3s"]);
    hold.acquire(json!({}));
    let status = hold.ask(json!({ "op": "status", "name": "x" }));
    let changed = hold.ask(json!({ "op": "break", "name": "x", "version": "another" }));
    assert_eq!((&changed["broken"], &changed["now"]["held"]), (&json!(false), &json!(true)));
    let broken = hold.ask(json!({ "op": "break", "name": "x", "version": status["version"], "by": "the operator" }));
    assert_eq!(broken, json!({ "broken": true }));
    let lost = hold.event("lost");
    assert_eq!(lost["reason"], json!("broken"));
    assert!(lost["message"].as_str().unwrap().contains("the operator"), "{lost}");
}

#[test]
fn a_wrong_line_is_answered_and_ends_nothing() {
    let locks = Locks::new();
    let mut hold = Hold::start(&locks.url(), &[]);
    hold.acquire(json!({}));
    for line in ["", "garbage", "[]", "{\"id\":[]}", "{}", "\u{0}\u{7f}", &"[".repeat(100_000), &"a".repeat(2 << 20)] {
        hold.process.write(line);
        let reply = hold.reply_without_id();
        assert_eq!(reply["error"]["kind"], json!("protocol"), "{reply}");
    }
    for request in [
        json!({ "op": "steal" }),
        json!({ "op": "acquire", "name": "" }),
        json!({ "op": "release", "guard": 2 }),
        json!({ "op": "check", "guard": 0 }),
        json!({ "op": "acquire", "name": "y", "max_hodl": 20 }),
    ] {
        assert_eq!(hold.refused(request)["kind"], json!("protocol"));
    }
    assert_eq!(hold.ask(json!({ "op": "status", "name": "y" }))["held"], json!(false), "nothing was done");
    assert_eq!(hold.refused(json!({ "op": "acquire", "name": "x", "ttl": 20 }))["kind"], json!("config"));
    assert!(!locks.is_free());
}

#[test]
fn a_path_is_no_name_in_a_request() {
    let locks = Locks::new();
    let path = locks.file();
    let path = path.to_str().unwrap();
    let mut hold = Hold::start(&locks.url(), &[]);
    for request in [
        json!({ "op": "acquire", "name": path }),
        json!({ "op": "status", "name": path }),
        json!({ "op": "break", "name": path, "version": "1" }),
    ] {
        let refused = hold.refused(request);
        assert!(refused["message"].as_str().unwrap().contains("looks like a path"), "{refused}");
    }
    assert_eq!(hold.ask(json!({ "op": "acquire", "name": "etl/a" }))["held"], json!(true));

    // Without a store `onelock run etl/a` locks a file.
    let state = tempfile::tempdir().unwrap();
    let mut command = onelock(["hold", "--json"]);
    let mut hold = Hold::serve(command.env("XDG_STATE_HOME", state.path()).env_remove("ONELOCK_URL"));
    let refused = hold.refused(json!({ "op": "acquire", "name": "etl/a" }));
    assert!(refused["message"].as_str().unwrap().contains("choose a store with --url"), "{refused}");
}

#[cfg(feature = "redis")]
#[test]
fn an_unavailable_store_is_an_error_and_no_holder() {
    let mut server = test_support::redis::RedisServer::start();
    let mut hold = Hold::start(&format!("redis://{}?ttl=2s", server.addr()), &[]);
    server.kill();
    let error = hold.refused(json!({ "op": "acquire", "name": "x", "wait": 0 }));
    assert_eq!(error["retryable"], json!(true), "{error}");
    assert!(["unavailable", "timeout"].contains(&error["kind"].as_str().unwrap()), "{error}");
}

#[test]
fn a_crashed_holder_is_named_to_the_next() {
    let locks = Locks::new();
    let mut crashed = Running::start(&mut locks.run(["--owner", "dead", "x", "-c", "echo held; sleep 1000"]));
    crashed.expect_line("held");
    // The watchdog releases the lock of a killed onelock, but does not write that it was released.
    crashed.signal(nix::sys::signal::SIGKILL);
    eventually("the lock is free", || locks.is_free());
    let mut hold = Hold::start(&locks.url(), &[]);
    let held = hold.acquire(json!({}));
    assert_eq!(held["crashed"]["owner"], json!("dead"), "{held}");
}
