//! Tests stores that must not be trusted with locks, and objects that are not ours.

use std::{sync::Arc, time::Duration};

use lock_core::{
    Error, ErrorKind,
    backend::{AcquireOutcome, Backend, Level},
    testing::TestClock,
};
use lock_object::{ObjectBackend, ObjectConfig};
use test_support::wire::{Fault, Wire};

use crate::fixture::{Bucket, Kind, foreign_record, granted, name, request};

const TTL: Duration = Duration::from_secs(60);

/// Removes the headers whose lower-case names begin so.
fn without(head: &str, names: &[&str]) -> String {
    let is_kept = |line: &&str| !names.iter().any(|name| line.to_ascii_lowercase().starts_with(name));
    head.lines().filter(is_kept).collect::<Vec<_>>().join("\r\n")
}

async fn refusal(bucket: &Bucket, wire: &Wire) -> Error {
    let backend = ObjectBackend::new(bucket.config_at(&wire.endpoint())).unwrap();
    let error = backend.acquire(&request(&name("a"), TTL)).await.expect_err("such a store grants no lock");
    assert_eq!(bucket.get(&name("a")).status, 404, "a lock was written: {error}");
    error
}

#[tokio::test]
// verifies: P1
async fn a_store_that_ignores_conditions_grants_nothing() {
    for kind in [Kind::Moto, Kind::SeaweedFs] {
        for strip in [
            (|head| without(head, &["if-match", "if-none-match"])) as fn(&str) -> String,
            |head| without(head, &["if-match"]),
            |head| without(head, &["if-none-match"]),
        ] {
            let bucket = Bucket::new(kind).await;
            let wire = Wire::start(bucket.address);
            wire.edit_requests(strip);
            let error = refusal(&bucket, &wire).await;
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
            let message = error.to_string();
            assert!(message.contains("ignores conditions") && message.contains("PUT with If-"), "{message}");
        }
    }
}

#[tokio::test]
async fn a_release_for_another_process_does_not_replace_the_probe() {
    let bucket = Bucket::new(Kind::Moto).await;
    let held = granted(&bucket.backend(), &request(&name("a"), TTL)).await;
    let wire = Wire::start(bucket.address);
    let backend = ObjectBackend::new(bucket.config_at(&wire.endpoint())).unwrap();
    let _ = backend.release(&held, Duration::ZERO).await.unwrap();
    wire.edit_requests(|head| without(head, &["if-match"]));
    let error = backend.acquire(&request(&name("a"), TTL)).await.expect_err("such a store grants no lock");
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

#[tokio::test]
async fn diagnose_names_a_store_that_ignores_conditions() {
    let bucket = Bucket::new(Kind::Moto).await;
    let wire = Wire::start(bucket.address);
    wire.edit_requests(|head| without(head, &["if-match"]));
    let findings = ObjectBackend::new(bucket.config_at(&wire.endpoint())).unwrap().diagnose().await;
    let unfit: Vec<_> = findings.iter().filter(|finding| finding.level == Level::Unfit).collect();
    assert!(unfit.len() == 1 && unfit[0].subject == "conditional writes", "{findings:?}");
}

#[tokio::test]
// verifies: asking
async fn diagnose_and_reads_write_nothing() {
    let bucket = Bucket::new(Kind::Moto).await;
    let backend = bucket.backend();
    backend.diagnose().await;
    let admin = backend.admin().unwrap();
    assert_eq!(admin.inspect(&name("a")).await.unwrap(), None);
    assert!(admin.list("").await.unwrap().locks.is_empty());
    let listed = bucket.send(http::Method::GET, &format!("?list-type=2&prefix={}", bucket.prefix), &[], b"");
    let text = String::from_utf8_lossy(&listed.body).into_owned();
    assert!(text.contains("<KeyCount>0</KeyCount>"), "{text}");
}

#[tokio::test]
// verifies: P8
async fn a_store_without_a_usable_clock_grants_nothing() {
    for edit in [
        (|head| without(head, &["date"])) as fn(&str) -> String,
        |head| without(head, &["last-modified"]),
        |head| format!("{}\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT", without(head, &["date"])),
        |head| format!("{}\r\nDate: yesterday", without(head, &["date"])),
    ] {
        let bucket = Bucket::new(Kind::Moto).await;
        let wire = Wire::start(bucket.address);
        wire.edit_replies(edit);
        let error = refusal(&bucket, &wire).await;
        assert_eq!(error.kind(), ErrorKind::StoreNotReady, "{error}");
        assert!(error.to_string().contains("Date") || error.to_string().contains("Last-Modified"), "{error}");
        // A lock that another client holds is not judged either.
        granted(&bucket.backend(), &request(&name("b"), TTL)).await;
        let backend = ObjectBackend::new(bucket.config_at(&wire.endpoint())).unwrap();
        backend.acquire(&request(&name("b"), TTL)).await.expect_err("its age is unknown");
    }
}

#[tokio::test]
// verifies: P8, clock-set
async fn clocks_of_clients_do_not_judge_a_lease() {
    let bucket = Bucket::new(Kind::Moto).await;
    let hour = Duration::from_secs(3_600);
    let (ahead, behind) = (Arc::new(TestClock::new()), Arc::new(TestClock::new()));
    ahead.thaw_after(hour);
    behind.set_back(hour);
    let [ahead, behind] = [ahead, behind].map(|clock| ObjectBackend::with_clock(bucket.config(), clock).unwrap());
    let held = request(&name("a"), Duration::from_secs(600));
    let mut last = granted(&behind, &held).await;
    assert!(matches!(ahead.acquire(&request(&name("a"), TTL)).await.unwrap(), AcquireOutcome::Contended(_)));
    // Tokens rise too, although each client replaces the other.
    for i in 0..6 {
        let holder = [&ahead, &behind][i % 2];
        let _ = [&behind, &ahead][i % 2].release(&last, Duration::ZERO).await.unwrap();
        let next = granted(holder, &request(&name("a"), TTL)).await;
        assert!(next.token > last.token, "{next:?} after {last:?}");
        last = next;
    }
}

#[tokio::test]
// verifies: not-ours
async fn objects_of_others_are_named_and_never_changed() {
    let bucket = Bucket::new(Kind::Moto).await;
    let backend = bucket.backend();
    let later = foreign_record(&name("a")).replace(r#""onelock":1"#, r#""onelock":2"#);
    let other_name = foreign_record(&name("b"));
    for body in ["", "{}", "some text", r#"{"ID":"1","Operation":"apply"}"#, &later, &other_name] {
        bucket.put(&name("a"), body);
        let error = backend.acquire(&request(&name("a"), TTL)).await.expect_err("it is not a lock");
        assert_eq!(error.kind(), ErrorKind::StoreNotReady, "{error}");
        assert!(error.to_string().contains("/a.lock\" is not a lock, and was not changed"), "{error}");
        let admin = backend.admin().unwrap();
        assert!(admin.inspect(&name("a")).await.is_err() && admin.purge(&name("a")).await.is_err());
        assert_eq!(admin.list("").await.unwrap().odd_count(), 1);
        assert_eq!(String::from_utf8_lossy(&bucket.get(&name("a")).body), body);
    }
}

#[tokio::test]
async fn servers_that_are_no_object_stores_are_named() {
    let wire = Wire::alone(Fault::Answer("<html>hello</html>".into()));
    let config = ObjectConfig::s3("b").endpoint(wire.endpoint()).anonymous(true);
    let backend = ObjectBackend::new(config.clone()).unwrap();
    let error = backend.acquire(&request(&name("a"), TTL)).await.expect_err("a web page is no lock");
    assert!(!error.is_retryable(), "{error}");
    wire.always(Fault::Refuse(404, "not found"));
    let error = backend.acquire(&request(&name("a"), TTL)).await.expect_err("a web page is no free lock");
    assert!(error.to_string().contains("not an object store"), "{error}");
}

#[tokio::test]
async fn a_missing_bucket_and_a_dead_address_are_named() {
    let bucket = Bucket::new(Kind::Moto).await;
    let config = ObjectConfig::s3("no-such-bucket").endpoint(bucket.endpoint()).access_key("a", "b", None);
    let backend = ObjectBackend::new(config).unwrap();
    let error = backend.acquire(&request(&name("a"), TTL)).await.unwrap_err();
    assert!(error.to_string().contains("there is no bucket \"no-such-bucket\""), "{error}");
    assert_eq!(error.kind(), ErrorKind::StoreNotReady);
    let findings = backend.diagnose().await;
    assert!(findings.iter().any(|finding| finding.level == Level::Unfit), "{findings:?}");

    let dead = ObjectConfig::s3("b").endpoint("http://127.0.0.1:9").anonymous(true);
    let error = ObjectBackend::new(dead).unwrap().acquire(&request(&name("a"), TTL)).await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Unavailable, false), "{error}");
}
