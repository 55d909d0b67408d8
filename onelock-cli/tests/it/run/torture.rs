//! `onelock torture` on real stores.

use serde_json::Value;

use super::fixture::{Locks, Running, children, eventually, onelock, output};

fn torture(url: &str, time: &str, ttl: &str) -> Value {
    let output = output(onelock(["torture", "--json", "--url", url]).args(["--time", time, "--ttl", ttl]));
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("{report:#}");
    report
}

/// How often a run is repeated at most until all of them together are thorough.
const RUNS: usize = 10;

/// The ways to acquire beside the plain one, with the least number of acquisitions in each.
const WAYS: [(&str, u64); 4] = [("shared", 1), ("permits", 1), ("queued", 1), ("handed_over", 1)];

/// Repeats a run until all runs together had enough work and faults; with cuts if the store has a
/// network. Each run must pass. How much work fits into the time of a run depends on the load of
/// the machine. These stores have every mode, a queue and hand-overs.
#[track_caller]
fn assert_thorough(run: impl Fn() -> Value, has_network: bool) {
    let cuts = u64::from(has_network);
    let faults = [("acquisitions", 100), ("killed", 1), ("frozen", 1), ("cut_off", cuts), ("writes_accepted", 50)];
    let least = [&faults[..], &WAYS].concat();
    let mut done = vec![0; least.len()];
    for _ in 0..RUNS {
        let report = run();
        assert_eq!(report["passed"], true);
        assert_eq!(report["violations"], 0);
        assert_eq!(report["not_cleaned_up"].as_array().unwrap().len(), 0);
        assert_eq!(report["not_cut_off_because"].is_null(), has_network);
        for (sum, (what, _)) in done.iter_mut().zip(&least) {
            *sum += report[*what].as_u64().unwrap();
        }
        if done.iter().zip(&least).all(|(sum, (_, least))| sum >= least) {
            return;
        }
    }
    panic!("{RUNS} runs had {done:?} of {least:?}");
}

#[test]
fn files_keep_their_guarantees_under_faults() {
    let locks = Locks::new();
    assert_thorough(|| torture(&locks.url(), "6s", "1s"), false);
    let left: Vec<_> = std::fs::read_dir(locks.dir.path().join("locks")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[cfg(feature = "redis")]
#[test]
fn redis_keeps_its_guarantees_under_faults() {
    let server = test_support::redis::RedisServer::start();
    assert_thorough(|| torture(&format!("redis://{}", server.addr()), "8s", "1s"), true);
    let left = server.command(&["KEYS", "*"]);
    // Markers against the return of a released id stay for minutes.
    assert!(left.lines().filter(|line| line.starts_with("onelock:")).all(|key| key.contains(":g:")), "{left}");
}

/// A proxy cannot cut off the processes, because the servers name each other's addresses.
#[cfg(feature = "redis")]
#[test]
// verifies: P1, P12
fn redis_with_many_servers_keeps_its_guarantees_under_faults() {
    use test_support::{
        redis::{RedisCluster, RedisServer},
        sentinel::SentinelSetup,
    };
    let (setup, cluster) = (SentinelSetup::start(), RedisCluster::start());
    let majority: Vec<_> = (0..3).map(|_| RedisServer::start()).collect();
    let hosts = |ports: Vec<u16>| ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let ports = |servers: &[RedisServer]| hosts(servers.iter().map(RedisServer::port).collect());
    for url in [
        format!("redis+sentinel://{}/{}", hosts(setup.ports()), SentinelSetup::SERVICE),
        format!("redis+cluster://{}", ports(cluster.nodes())),
        format!("redis+quorum://{}", ports(&majority)),
    ] {
        let report = torture(&url, "8s", "2s");
        assert_eq!((&report["passed"], &report["violations"]), (&true.into(), &0.into()));
        for (what, least) in [("acquisitions", 20), ("killed", 1), ("frozen", 1), ("writes_accepted", 10)] {
            assert!(report[what].as_u64().unwrap() >= least, "{what} of {report:#}");
        }
    }
}

#[cfg(feature = "dynamo")]
#[test]
fn dynamodb_keeps_its_guarantees_under_faults() {
    let endpoint = test_support::dynamodb::DynamoDbLocal::shared().endpoint();
    let url = format!(
        "dynamodb://torture-{}?endpoint={endpoint}&region=eu-central-1&access_key_id=test&secret_access_key=test",
        std::process::id()
    );
    assert!(output(&mut onelock(["init", "--url", &url])).status.success());
    // A ttl of 2 s gives an attempt 0.5 s. On a busy machine the emulator needs more, so no waiter
    // acquires a free lock in time.
    assert_thorough(|| torture(&url, "10s", "6s"), true);
}

#[cfg(feature = "object")]
#[test]
fn object_stores_keep_their_guarantees_under_faults() {
    let server = test_support::object_stores::ObjectStoreServer::seaweedfs();
    server.create_bucket("torture");
    let url = format!(
        "s3://torture/{}?endpoint={}&anonymous=true&skew=0s&poll_min=50ms&poll_max=500ms",
        std::process::id(),
        server.endpoint()
    );
    let report = torture(&url, "20s", "1s");
    assert_eq!((&report["passed"], &report["violations"]), (&true.into(), &0.into()));
    for what in ["acquisitions", "killed", "frozen", "cut_off", "writes_accepted"] {
        assert!(report[what].as_u64().unwrap() >= 1, "{what} of {report:#}");
    }
}

/// Checks that the run failed with exit code 1, and that the report shows the events.
#[track_caller]
fn assert_found(output: &std::process::Output) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["passed"], false);
    let first = &report["first_violations"][0];
    let events = first["events"].as_array().unwrap();
    assert!(!first["rule"].as_str().unwrap().is_empty() && (2..=3).contains(&events.len()), "{first:#}");
    let journals = report["journals"].as_str().unwrap();
    assert!(std::fs::read_dir(journals).unwrap().count() > 0, "the journals were not kept: {journals}");
    std::fs::remove_dir_all(journals).unwrap();
}

#[test]
// verifies: torture-sees
fn torture_detects_a_store_private_to_each_process() {
    let torture = &mut onelock(["torture", "--json", "--url", "memory:", "--time", "2s", "--ttl", "1s"]);
    assert_found(&output(torture));
}

#[cfg(feature = "redis")]
#[test]
// verifies: torture-sees
fn torture_detects_a_store_that_loses_its_data() {
    let server = test_support::redis::RedisServer::start();
    let url = format!("redis://{}", server.addr());
    let mut torture = onelock(["torture", "--json", "--url", &url, "--time", "4s", "--ttl", "1s"]);
    let torture = std::thread::spawn(move || output(&mut torture));
    // The data is deleted repeatedly while the run lasts.
    while !torture.is_finished() {
        server.command(&["FLUSHALL"]);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_found(&torture.join().unwrap());
}

/// The store loses only what it keeps of shared locks and permits: the tokens stay.
#[cfg(feature = "redis")]
#[test]
// verifies: torture-sees
fn torture_detects_a_store_that_loses_parts_of_joined_locks() {
    let server = test_support::redis::RedisServer::start();
    let url = format!("redis://{}", server.addr());
    let mut torture = onelock(["torture", "--json", "--url", &url, "--time", "6s", "--ttl", "1s", "--names", "2"]);
    let torture = std::thread::spawn(move || output(&mut torture));
    while !torture.is_finished() {
        for key in server.command(&["KEYS", "onelock:{onelock-torture/*/1}"]).lines().filter(|key| key.starts_with('o'))
        {
            if server.command(&["TYPE", key.trim_end()]) == "+zset\r\n" {
                server.command(&["DEL", key.trim_end()]);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let output = torture.join().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let violations = report["first_violations"].as_array().unwrap();
    let is_joined = |event: &Value| ["Shared", "Permit"].iter().any(|mode| event.as_str().unwrap().contains(mode));
    let joined = |violation: &Value| violation["events"].as_array().unwrap().iter().any(is_joined);
    assert!(violations.iter().any(joined), "{report:#}");
    assert_found(&output);
}

/// The store forgets who waits, and loses nothing else.
#[cfg(feature = "redis")]
#[test]
// verifies: torture-sees
fn torture_detects_a_store_that_loses_its_queue() {
    let server = test_support::redis::RedisServer::start();
    let url = format!("redis://{}", server.addr());
    let mut torture = onelock(["torture", "--json", "--url", &url, "--time", "8s", "--ttl", "1s", "--names", "1"]);
    let torture = std::thread::spawn(move || output(&mut torture));
    while !torture.is_finished() {
        for key in server.command(&["KEYS", "onelock:{onelock-torture/*}:q"]).lines().filter(|key| key.starts_with('o'))
        {
            server.command(&["DEL", key.trim_end()]);
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let output = torture.join().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let violations = report["first_violations"].as_array().unwrap();
    assert!(!violations.is_empty() && violations.iter().all(|found| found["rule"] == "in_order"), "{report:#}");
    assert_found(&output);
}

#[test]
fn torture_fails_on_a_store_that_cannot_be_opened() {
    let url = "file:///proc/no/such/place?create=false";
    let run = |json: &[&str]| output(onelock(["torture", "--url", url, "--time", "1s", "--seed", "7"]).args(json));
    let failed = run(&[]);
    assert_eq!(failed.status.code(), Some(73), "{failed:?}");
    let text = String::from_utf8(failed.stdout).unwrap();
    assert!(text.starts_with(&format!("no result: {url}\n")) && text.lines().count() == 2, "{text}");
    let failed = run(&["--json"]);
    assert_eq!(failed.status.code(), Some(73), "{failed:?}");
    let report: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!((&report["passed"], &report["store"], &report["seed"]), (&Value::Null, &url.into(), &7.into()));
    assert!(text.contains(report["failed_because"].as_str().unwrap()), "{report}");
}

#[test]
fn torture_without_a_store_has_a_report() {
    let mut torture = onelock(["torture", "--json", "--url-file", "/no/such/file"]);
    let failed = output(&mut torture);
    assert_eq!(failed.status.code(), Some(78), "{failed:?}");
    let report: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!((&report["passed"], &report["store"]), (&Value::Null, &Value::Null));
    assert!(report["failed_because"].as_str().unwrap().contains("cannot read /no/such/file"), "{report}");
}

#[cfg(feature = "redis")]
#[test]
fn torture_reports_a_silent_store_before_it_starts() {
    // This server accepts connections and never replies.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}?connect_timeout=200ms&timeout=200ms", silent.local_addr().unwrap());
    let output = output(&mut onelock(["torture", "--url", &url, "--time", "2s", "--processes", "1"]));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(output.stderr.is_empty() && said.starts_with("no result: "), "the run must not start: {said}");
    assert!(said.contains(&silent.local_addr().unwrap().to_string()), "{said}");
}

#[test]
fn an_unwritable_journal_is_no_violation() {
    let locks = Locks::new();
    // A limit of 8 KiB a file stands for a full disk.
    let mut limited = std::process::Command::new("bash");
    limited.args(["-c", "ulimit -f 8; trap '' XFSZ; exec \"$@\"", "bash", env!("CARGO_BIN_EXE_onelock")]);
    let output = output(limited.args(["torture", "--time", "3s", "--url", &locks.url()]));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("no result: ") && said.contains("ended unexpectedly"), "{:?} {said}", output.status);
    assert!(!matches!(output.status.code(), Some(0 | 1)), "the run must neither pass nor fail: {:?}", output.status);
}

#[test]
fn a_run_without_acquisitions_says_that_it_proves_nothing() {
    let locks = Locks::new();
    let output = output(&mut onelock(["torture", "--time", "0", "--processes", "1", "--url", &locks.url()]));
    let said = String::from_utf8(output.stdout).unwrap();
    // A fast worker may acquire a lock before the stop request.
    assert!(matches!(output.status.code(), Some(0 | 69)), "{said}");
    assert_eq!(output.status.code() == Some(69), said.starts_with("no lock was acquired"), "{said}");
}

/// Checks that the run failed because of `why`, and returns the report.
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
fn torture_detects_a_lock_held_after_all_processes_end() {
    let locks = Locks::new();
    let mut torture = onelock(["torture", "--json", "--time", "1s", "--names", "1", "--url", &locks.url()]);
    let torture = std::thread::spawn(move || output(&mut torture));
    // A foreign client locks the file and never unlocks it.
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
    assert_eq!(report["violations"], 0, "a short run shows it only at the end: {report:#}");
}

#[test]
fn torture_detects_a_process_that_ends_unexpectedly() {
    let locks = Locks::new();
    let mut command = onelock(["torture", "--json", "--time", "1h", "--url", &locks.url()]);
    let mut running = Running::start(&mut command);
    eventually("the processes run", || !children(running.pid()).is_empty());
    // Repeated until the parent, which kills and starts processes itself, notices a death that it
    // did not cause.
    while running.child.try_wait().unwrap().is_none() {
        for pid in children(running.pid()) {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let report: Value = serde_json::from_str(&running.line()).unwrap();
    running.ends_with(71);
    let why = report["failed_because"].as_str().unwrap();
    assert!(
        report["passed"].is_null() && why.contains("ended unexpectedly before the stop request: signal: 9"),
        "{why}"
    );
}

#[test]
fn torture_overrides_options_for_application_locks() {
    let locks = Locks::new();
    let report = torture(&format!("{}?min_hold=1h&grace=3s&renew=1h&prefix=app/", locks.url()), "1s", "1s");
    assert_eq!((report["passed"].as_bool(), report["errors"].as_u64()), (Some(true), Some(0)));
}

#[cfg(feature = "redis")]
#[test]
fn torture_waits_for_the_lease_of_a_migration() {
    let (locks, server) = (Locks::new(), test_support::redis::RedisServer::start());
    let to = format!("redis://{}", server.addr());
    let url = format!("migrate:?from={}&to={to}&lease=12s", locks.url());
    let report = torture(&url, "4s", "1s");
    assert!(report["killed"].as_u64().unwrap() > 0);
    assert!(
        report["obtainable_within"].as_f64().unwrap() >= 29.0,
        "the bound must be 5 s plus twice the lease: {report:#}"
    );
}
