//! Several holders of one lock in one session, on the stores with leases.

use serde_json::{Value, json};
use test_support::redis::RedisServer;

use super::fixture::Hold;
use crate::run::{
    fixture::{code, onelock},
    parts::on_each_store,
};

/// Returns the versions of the holders that the store names, and the number of all.
fn named(hold: &mut Hold) -> (Vec<Value>, u64) {
    let status = hold.ask(json!({ "op": "status", "name": "x" }));
    let others = status["others"].as_array().into_iter().flatten();
    let versions = std::iter::once(&status).chain(others).map(|holder| holder["version"].clone()).collect();
    (versions, status["holders"].as_u64().unwrap_or(1))
}

/// Returns a guard and its version. The first ones to expire are named, and renewals change which
/// these are.
fn reader(hold: &mut Hold, ttl: u32) -> (Value, Value) {
    let (before, _) = named(hold);
    let guard = hold.acquire(json!({ "mode": "shared", "renew": "manual", "ttl": ttl }))["guard"].clone();
    let (after, _) = named(hold);
    (guard, after.into_iter().find(|version| !before.contains(version)).expect("the new holder is named"))
}

fn break_takes_holders_that_are_only_counted(url: &str) {
    let mut hold = Hold::start(url, &[]);
    let [first, second] = [(); 2].map(|()| reader(&mut hold, 600));
    for _ in 0..16 {
        hold.acquire(json!({ "mode": "shared", "renew": "manual", "ttl": 120 }));
    }
    let (versions, holders) = named(&mut hold);
    assert_eq!((versions.len(), holders), (16, 18), "{url}");
    assert!(![&first.1, &second.1].iter().any(|version| versions.contains(version)), "{url}");

    let request = json!({ "op": "break", "name": "x", "version": first.1 });
    assert_eq!(hold.ask(request.clone()), json!({ "broken": true }), "{url}");
    let again = hold.ask(request);
    assert_eq!((&again["broken"], &again["now"]["holders"]), (&json!(false), &json!(17)), "{url}");
    let released = hold.ask(json!({ "op": "release", "guard": first.0 }));
    assert_eq!(released["released"], json!(false), "{url}: {released}");

    // Other processes do not see this store.
    if url != "memory:" {
        let version = second.1.as_str().unwrap();
        let mut by_version = onelock(["break", "--url", url, "--if-version", version, "x"]);
        assert_eq!((code(&mut by_version), code(&mut by_version)), (0, 1), "{url}");
        assert_eq!(named(&mut hold).1, 16, "{url}");
    }
}

#[test]
// verifies: P3, P12
fn a_holder_that_is_only_counted_is_broken_by_its_version() {
    break_takes_holders_that_are_only_counted("memory:");
    on_each_store(break_takes_holders_that_are_only_counted);
    let servers = [(); 3].map(|()| RedisServer::start());
    let [one, two, three] = servers.each_ref().map(RedisServer::addr);
    break_takes_holders_that_are_only_counted(&format!("redis+quorum://{one},{two},{three}"));
    break_takes_holders_that_are_only_counted(&format!("migrate:?from=redis://{one}/1&to=redis://{two}/1"));
}
