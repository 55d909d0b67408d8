//! `dlock torture`, on the real program and real stores.

use serde_json::Value;

use crate::support::{Locks, dlock, output};

fn torture(url: &str, time: &str) -> Value {
    let output = output(dlock(["torture", "--json", "--url", url]).args(["--time", time, "--ttl", "1s"]));
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("{report:#}");
    report
}

#[track_caller]
fn assert_thorough(report: &Value) {
    assert_eq!(report["passed"], true);
    for (what, least) in [("acquisitions", 100), ("killed", 3), ("frozen", 3), ("writes_accepted", 50)] {
        assert!(report[what].as_u64().unwrap() >= least, "{what} of {report:#}");
    }
}

#[test]
fn files_keep_their_promises_while_processes_are_killed_and_frozen() {
    let locks = Locks::new();
    assert_thorough(&torture(&locks.url(), "6s"));
    let left: Vec<_> = std::fs::read_dir(locks.dir.path().join("locks")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[cfg(feature = "redis")]
#[test]
fn redis_keeps_its_promises_while_processes_are_killed_and_frozen() {
    let server = integration::redis::RedisServer::start();
    assert_thorough(&torture(&format!("redis://{}", server.addr()), "8s"));
}

#[test]
fn a_store_without_which_nothing_was_proved_is_no_success() {
    let output = output(&mut dlock(["torture", "--url", "file:///proc/no/such/place", "--time", "1s"]));
    assert!(!output.status.success(), "{output:?}");
}

#[test]
fn a_time_of_zero_proves_nothing_and_says_so() {
    let locks = Locks::new();
    let output = output(&mut dlock(["torture", "--time", "0", "--processes", "1", "--url", &locks.url()]));
    let said = String::from_utf8(output.stdout).unwrap();
    // A worker may have been quick enough to take a lock before it was told to stop.
    assert!(matches!(output.status.code(), Some(0 | 69)), "{said}");
    assert_eq!(output.status.code() == Some(69), said.starts_with("nothing was acquired"), "{said}");
}
