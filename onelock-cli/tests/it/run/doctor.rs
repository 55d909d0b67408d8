//! `onelock doctor` on real stores, fit and unfit ones.

use std::process::Output;

use serde_json::Value;

use super::fixture::{Locks, code, onelock, output};

fn doctor(url: &str) -> Output {
    output(&mut onelock(["doctor", "--json", "--url", url]))
}

fn report(output: &Output) -> Value {
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    println!("{report:#}");
    report
}

#[track_caller]
fn level(report: &Value, subject: &str) -> String {
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["subject"] == subject);
    found.unwrap_or_else(|| panic!("no finding on {subject} in {report:#}"))["level"].as_str().unwrap().to_owned()
}

#[test]
fn a_local_directory_is_fit_and_left_unchanged() {
    let locks = Locks::new();
    assert_eq!(code(&mut locks.run(["x", "true"])), 0);
    let files = || std::fs::read_dir(locks.dir.path().join("locks")).unwrap().count();
    let before = files();
    let examined = doctor(&format!("{}?min_hold=1h&prefix=app/", locks.url()));
    assert_eq!(examined.status.code(), Some(0), "{examined:?}");
    let report = report(&examined);
    assert_eq!((&report["fit"], &report["timing"]["ttl"]), (&Value::Bool(true), &Value::Null));
    assert_eq!((&report["capabilities"]["fencing"], &report["capabilities"]["ttl"]), (&true.into(), &false.into()));
    for subject in ["locks", "tokens", "two clients", "two processes", "clock"] {
        assert_eq!(level(&report, subject), "good", "{subject}");
    }
    assert_eq!(files(), before);
}

#[test]
fn a_store_private_to_each_process_is_unfit() {
    let examined = doctor("memory:?ttl=20s&margin=3s");
    assert_eq!(examined.status.code(), Some(1), "{examined:?}");
    let report = report(&examined);
    assert_eq!((level(&report, "two clients"), level(&report, "two processes")), ("good".into(), "unfit".into()));
    assert_eq!((level(&report, "loss"), level(&report, "expiry")), ("good".into(), "good".into()));
    assert_eq!((&report["timing"]["ttl"], &report["timing"]["margin"]), (&20.0.into(), &3.0.into()));
}

#[test]
fn the_text_report_has_capabilities_advice_and_verdict() {
    let examined = output(&mut onelock(["doctor", "--url", "memory:"]));
    let text = String::from_utf8(examined.stdout).unwrap();
    assert!(text.starts_with("store: memory:\ncapabilities: ttl yes, fencing yes, "), "{text}");
    assert!(
        text.contains(
            "shared yes, permits yes, hand-over yes, fair yes\ntiming: ttl 30s, margin 3s, renewed every 10s, "
        ),
        "{text}"
    );
    assert!(text.contains("\nunfit    two processes: ") && text.contains("\n         -> "), "{text}");
    assert!(text.ends_with("\nNOT fit for locks\n"), "{text}");
}

#[test]
fn a_store_that_cannot_be_opened_has_a_report() {
    let url = "file:///proc/no/locks?create=false";
    let text = output(&mut onelock(["doctor", "--url", url]));
    assert_eq!(text.status.code(), Some(73), "{text:?}");
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.starts_with(&format!("store: {url}\n\nunfit    store: it could not be opened: ")), "{text}");
    assert!(text.ends_with("\n\nNOT fit for locks\n"), "{text}");
    let report = report(&doctor(url));
    assert_eq!((&report["fit"], &report["capabilities"]), (&false.into(), &Value::Null));
    assert_eq!(level(&report, "store"), "unfit");
}

#[test]
fn a_store_that_cannot_be_chosen_has_a_report() {
    let doctor = |json: &[&str]| output(onelock(["doctor", "--url-file", "/no/such/file"]).args(json));
    let text = doctor(&[]);
    assert_eq!(text.status.code(), Some(78), "{text:?}");
    let text = String::from_utf8(text.stdout).unwrap();
    let expected = "store: none\n\nunfit    store: none could be chosen: cannot read /no/such/file";
    assert!(text.starts_with(expected) && text.ends_with("\n\nNOT fit for locks\n"), "{text}");
    let report = report(&doctor(&["--json"]));
    assert_eq!((&report["fit"], &report["store"]), (&false.into(), &Value::Null));
}

#[test]
fn notes_stand_apart_from_findings() {
    let locks = Locks::new();
    let text = String::from_utf8(output(&mut onelock(["doctor", "--url", &locks.url()])).stdout).unwrap();
    let (findings, notes) = text.split_once("\n\nnotes:\n").expect(&text);
    assert!(findings.contains("\ngood     two processes: ") && !findings.contains("\nnote"), "{text}");
    assert!(notes.starts_with("         ") && notes.ends_with("\n\nfit for locks\n"), "{text}");
}

#[cfg(feature = "redis")]
#[test]
fn a_redis_that_may_evict_locks_is_unfit_until_fixed() {
    let server =
        test_support::redis::RedisServer::with_args(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let url = format!("redis://{}", server.addr());
    let unfit = doctor(&url);
    assert_eq!(unfit.status.code(), Some(1), "{unfit:?}");
    let unfit = report(&unfit);
    assert_eq!((level(&unfit, "maxmemory-policy"), level(&unfit, "two processes")), ("unfit".into(), "good".into()));
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let fixed = doctor(&url);
    assert_eq!(fixed.status.code(), Some(0), "{fixed:?}");
    let fixed = report(&fixed);
    for subject in ["locks", "tokens", "two clients", "two processes", "loss", "expiry", "clock", "maxmemory-policy"] {
        assert_eq!(level(&fixed, subject), "good", "{subject}");
    }
    assert_eq!(code(&mut onelock(["status", "--url", &url, "x"])), 1);
    let held = output(&mut onelock(["list", "--url", &url]));
    assert!(held.status.success() && held.stdout.is_empty(), "a lock was left: {held:?}");
    assert_eq!(server.command(&["KEYS", "*:t"]), "*0\r\n", "a token was left");
}

#[cfg(feature = "redis")]
#[test]
fn an_unreachable_store_exits_with_unavailable() {
    let url = format!("redis://127.0.0.1:{}", test_support::free_port());
    let examined = doctor(&url);
    assert_eq!(examined.status.code(), Some(69), "{examined:?}");
    let report = report(&examined);
    assert_eq!((level(&report, "locks"), level(&report, "server")), ("unfit".into(), "warning".into()));
    let text = report["findings"][0]["text"].as_str().unwrap();
    assert!(text.starts_with(&format!("acquire \"rounds\" on {url}: ")), "{text}");
    assert_eq!(text.matches("Connection refused").count(), 1, "{text}");
    assert_eq!(doctor("redis://h?ttl=30").status.code(), Some(78));
}
