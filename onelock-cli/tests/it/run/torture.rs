//! `onelock torture`, on the real program and real stores.

use serde_json::Value;

use super::fixture::{Locks, Running, children, eventually, onelock, output};

fn torture(url: &str, time: &str) -> Value {
    let output = output(onelock(["torture", "--json", "--url", url]).args(["--time", time, "--ttl", "1s"]));
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("{report:#}");
    report
}

/// Where a network can be cut, it was.
#[track_caller]
fn assert_thorough(report: &Value, has_network: bool) {
    assert_eq!(report["passed"], true);
    assert_eq!(report["violations"], 0);
    assert_eq!(report["not_cleaned_up"].as_array().unwrap().len(), 0);
    assert_eq!(report["not_cut_off_because"].is_null(), has_network);
    let cuts = u64::from(has_network);
    for (what, least) in
        [("acquisitions", 100), ("killed", 1), ("frozen", 1), ("cut_off", cuts), ("writes_accepted", 50)]
    {
        assert!(report[what].as_u64().unwrap() >= least, "{what} of {report:#}");
    }
}

#[test]
fn files_keep_their_promises_while_processes_are_killed_and_frozen() {
    let locks = Locks::new();
    assert_thorough(&torture(&locks.url(), "6s"), false);
    let left: Vec<_> = std::fs::read_dir(locks.dir.path().join("locks")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[cfg(feature = "redis")]
#[test]
fn redis_keeps_its_promises_while_processes_are_killed_frozen_and_cut_off() {
    let server = test_support::redis::RedisServer::start();
    assert_thorough(&torture(&format!("redis://{}", server.addr()), "8s"), true);
    let left = server.command(&["KEYS", "*"]);
    // Marks that a released id must not come back stay for minutes.
    assert!(left.lines().filter(|line| line.starts_with("onelock:")).all(|key| key.contains(":g:")), "{left}");
}

#[cfg(feature = "dynamo")]
#[test]
fn dynamodb_keeps_its_promises_while_processes_are_killed_frozen_and_cut_off() {
    let endpoint = test_support::dynamodb::DynamoDbLocal::shared().endpoint();
    let url = format!(
        "dynamodb://torture-{}?endpoint={endpoint}&region=eu-central-1&access_key_id=test&secret_access_key=test",
        std::process::id()
    );
    assert!(output(&mut onelock(["init", "--url", &url])).status.success());
    assert_thorough(&torture(&url, "10s"), true);
}

/// A store that has broken its promises: exit code 1, and the events that show it.
#[track_caller]
fn assert_found(output: &std::process::Output) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["passed"], false);
    let first = &report["first_violations"][0];
    let events = first["events"].as_array().unwrap();
    assert!(!first["rule"].as_str().unwrap().is_empty() && (2..=3).contains(&events.len()), "{first:#}");
    let journals = report["journals"].as_str().unwrap();
    assert!(std::fs::read_dir(journals).unwrap().count() > 0, "what happened is kept: {journals}");
    std::fs::remove_dir_all(journals).unwrap();
}

#[test]
// verifies: torture-sees
fn a_store_that_each_process_has_for_itself_is_found_out() {
    let torture = &mut onelock(["torture", "--json", "--url", "memory:", "--time", "2s", "--ttl", "1s"]);
    assert_found(&output(torture));
}

#[cfg(feature = "redis")]
#[test]
// verifies: torture-sees
fn a_store_that_loses_its_data_is_found_out() {
    let server = test_support::redis::RedisServer::start();
    let url = format!("redis://{}", server.addr());
    let mut torture = onelock(["torture", "--json", "--url", &url, "--time", "4s", "--ttl", "1s"]);
    let torture = std::thread::spawn(move || output(&mut torture));
    // Again and again, for as long as it runs.
    while !torture.is_finished() {
        server.command(&["FLUSHALL"]);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_found(&torture.join().unwrap());
}

#[test]
fn a_store_without_which_nothing_was_proved_is_no_success() {
    let output = output(&mut onelock(["torture", "--url", "file:///proc/no/such/place", "--time", "1s"]));
    assert!(!output.status.success(), "{output:?}");
}

#[cfg(feature = "redis")]
#[test]
fn a_store_that_does_not_answer_is_told_before_anything_is_started() {
    // Takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}?connect_timeout=200ms&timeout=200ms", silent.local_addr().unwrap());
    let output = output(&mut onelock(["torture", "--url", &url, "--time", "2s", "--processes", "1"]));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(output.stdout.is_empty() && !said.contains("torturing"), "no run, no report: {said}");
    assert!(said.contains(&silent.local_addr().unwrap().to_string()), "{said}");
}

#[test]
fn journals_that_cannot_be_written_are_no_violation() {
    let locks = Locks::new();
    // Files end at 8 KiB, as on a full disk.
    let mut limited = std::process::Command::new("bash");
    limited.args(["-c", "ulimit -f 8; trap '' XFSZ; exec \"$@\"", "bash", env!("CARGO_BIN_EXE_onelock")]);
    let output = output(limited.args(["torture", "--time", "3s", "--url", &locks.url()]));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty() && said.contains("ended unexpectedly"), "{:?} {said}", output.status);
    assert!(!matches!(output.status.code(), Some(0 | 1)), "neither passed nor failed: {:?}", output.status);
}

#[test]
fn a_time_of_zero_proves_nothing_and_says_so() {
    let locks = Locks::new();
    let output = output(&mut onelock(["torture", "--time", "0", "--processes", "1", "--url", &locks.url()]));
    let said = String::from_utf8(output.stdout).unwrap();
    // A worker may have been quick enough to take a lock before it was told to stop.
    assert!(matches!(output.status.code(), Some(0 | 69)), "{said}");
    assert_eq!(output.status.code() == Some(69), said.starts_with("no lock was acquired"), "{said}");
}

/// The report of a run that does not count as passed, and why.
#[track_caller]
fn assert_failed(output: &std::process::Output, why: &str) -> Value {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["passed"], false, "{report:#}");
    assert!(!report[why].as_array().unwrap().is_empty(), "no {why} in {report:#}");
    std::fs::remove_dir_all(report["journals"].as_str().unwrap()).unwrap();
    report
}

#[test]
fn a_lock_that_stays_held_when_all_are_dead_is_found_out() {
    let locks = Locks::new();
    let mut torture = onelock(["torture", "--json", "--time", "1s", "--names", "1", "--url", &locks.url()]);
    let torture = std::thread::spawn(move || output(&mut torture));
    // A stranger that takes the lock and never gives it back.
    let file = loop {
        let files =
            std::fs::read_dir(locks.dir.path().join("locks")).into_iter().flatten().map(|file| file.unwrap().path());
        match files
            .filter(|path| path.extension().is_some_and(|e| e == "lock"))
            .find_map(|p| std::fs::File::open(p).ok())
        {
            Some(file) => break file,
            None => assert!(!torture.is_finished()),
        }
    };
    file.lock().unwrap();
    let report = assert_failed(&torture.join().unwrap(), "stuck");
    assert_eq!(report["violations"], 0, "a short run shows it only in the end: {report:#}");
}

#[test]
fn a_process_that_ends_by_itself_is_found_out() {
    let locks = Locks::new();
    let mut command = onelock(["torture", "--json", "--time", "1h", "--url", &locks.url()]);
    let mut running = Running::start(&mut command);
    eventually("its processes run", || !children(running.pid()).is_empty());
    // Until the parent, which itself kills and starts processes, has found one dead that it did not
    // kill.
    while running.child.try_wait().unwrap().is_none() {
        for pid in children(running.pid()) {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let message = running.ends_with(71);
    assert!(message.contains("ended unexpectedly before the stop request: signal: 9"), "{message}");
}

#[test]
fn what_the_url_chooses_for_an_applications_locks_is_not_in_the_way() {
    let locks = Locks::new();
    let report = torture(&format!("{}?min_hold=1h&grace=3s&renew=1h&prefix=app/", locks.url()), "1s");
    assert_eq!((report["passed"].as_bool(), report["errors"].as_u64()), (Some(true), Some(0)));
}

#[cfg(feature = "redis")]
#[test]
fn a_process_killed_in_a_chain_is_waited_for_as_long_as_its_lease_lasts() {
    let (locks, server) = (Locks::new(), test_support::redis::RedisServer::start());
    let to = format!("redis://{}", server.addr());
    let url = format!("migrate:?from={}&to={to}&lease=12s", locks.url());
    let report = torture(&url, "4s");
    assert!(report["killed"].as_u64().unwrap() > 0);
    assert!(report["obtainable_within"].as_f64().unwrap() >= 29.0, "5 s and twice the lease: {report:#}");
}
