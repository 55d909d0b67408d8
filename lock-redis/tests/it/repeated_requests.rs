//! Requests that the client of a cluster sends again by itself, because the connection to a node
//! ended before the reply.

use std::time::Duration;

use lock_core::{
    Mode, TryAcquire,
    backend::{AcquireOutcome, Admin as _, Backend as _, Break, Release},
};
use lock_redis::RedisBackend;
use test_support::{
    Direction::Replies,
    lost_messages::{JOB, Network as _},
    redis::command,
    until,
};

use crate::fixture::{Fixture, LONG, granted, locker, reader, refused, released, request};

/// A client that waits on a busy machine too. Its requests end only with their connection.
fn client_of(fixture: &Fixture) -> RedisBackend {
    RedisBackend::new(fixture.config.clone().timeout(Duration::from_secs(20))).unwrap()
}

/// Sends a request, and cuts its connection once it is `done` and before the reply arrives. The
/// connections to other nodes stay, because redis-rs repeats no request without any.
async fn without_reply<T>(fixture: &Fixture, done: impl AsyncFn() -> bool, ask: impl Future<Output = T>) -> T {
    fixture.hold(Replies);
    let replied = || fixture.proxies.iter().map(|proxy| proxy.bytes(Replies)).collect::<Vec<_>>();
    let before = replied();
    let cut = async {
        until("the request to run", done).await;
        until("the reply", async || replied() != before).await;
        let asked = fixture.proxies.iter().zip(before.iter().zip(replied())).filter(|(_, (then, now))| *then != now);
        asked.for_each(|(proxy, _)| proxy.cut());
        fixture.heal();
    };
    tokio::join!(ask, cut).0
}

#[tokio::test]
// verifies: lost-reply
async fn a_released_guard_is_not_reported_as_lost() {
    let fixture = Fixture::cluster().await;
    let through = client_of(&fixture);
    // Loads the scripts, so that the lost reply is not a NOSCRIPT.
    let (lease, _) = granted(&through, &reader(JOB)).await;
    released(&through, &lease).await;
    let locker = locker(through.clone(), LONG);
    for (shared, contended) in [(false, false), (false, true), (true, false), (true, true)] {
        let mode = if shared { Mode::Shared } else { Mode::Exclusive };
        let guard = locker.lock(JOB).mode(mode).acquire().await.unwrap();
        let successor = request(JOB, LONG);
        let done = async || match contended {
            true => matches!(fixture.direct.acquire(&successor).await, Ok(AcquireOutcome::Granted(_))),
            false => fixture.is_free().await,
        };
        let answer = without_reply(&fixture, done, guard.release()).await;
        assert_eq!(answer.unwrap(), Release::Released, "shared: {shared}, contended: {contended}");
        if contended {
            released(&fixture.direct, &successor.lease(None)).await;
        }
    }
}

#[tokio::test]
// verifies: lost-reply
async fn a_repeated_release_of_a_broken_lock_reports_the_loss() {
    let fixture = Fixture::cluster().await;
    let through = client_of(&fixture);
    let (lease, _) = granted(&through, &request(JOB, LONG)).await;
    let broken = fixture.direct.break_lock(&lease.name, &lease.id.to_string(), "alice").await;
    assert_eq!(broken.unwrap(), Break::Broken);
    let before = fixture.requests_run();
    let arrived = async || fixture.requests_run() > before;
    let answer = without_reply(&fixture, arrived, through.release(&lease, Duration::ZERO)).await;
    assert_eq!(answer.unwrap(), Release::NotHeld(None));
}

#[tokio::test]
// verifies: lost-reply
async fn a_repeated_break_does_not_deny_the_first_one() {
    let fixture = Fixture::cluster().await;
    let through = client_of(&fixture);
    let (lease, _) = granted(&fixture.direct, &request(JOB, LONG)).await;
    let (name, version) = (&lease.name, lease.id.to_string());
    // Loads the script.
    let other = request(JOB, LONG).id.to_string();
    let changed = through.break_lock(name, &other, "alice").await;
    assert!(matches!(changed, Ok(Break::Changed(Some(_)))), "{changed:?}");
    let free = async || fixture.is_free().await;
    let answer = without_reply(&fixture, free, through.break_lock(name, &version, "alice")).await;
    let error = answer.unwrap_err();
    assert!(error.is_ambiguous() && error.is_retryable(), "{error:?}");
}

/// The first copy may still be on its way, from the connection that ended.
#[tokio::test]
// verifies: late-request
async fn the_release_of_a_repeated_acquire_leaves_a_mark() {
    let fixture = Fixture::cluster().await;
    let through = client_of(&fixture);
    for repeated in [false, true] {
        let request = request(JOB, LONG);
        let granted = if repeated {
            let held = async || !fixture.is_free().await;
            without_reply(&fixture, held, through.acquire(&request)).await
        } else {
            through.acquire(&request).await
        };
        assert!(matches!(granted, Ok(AcquireOutcome::Granted(_))), "{granted:?}");
        released(&through, &request.lease(None)).await;
        let mark = format!("onelock:{{{JOB}}}:g:{}", request.id);
        let marks = command(fixture.ports[0], &["EXISTS", &mark]).unwrap();
        assert_eq!(marks == ":1\r\n", repeated, "repeated: {repeated}, {marks}");
    }
}

/// The first copy may arrive once the holder has released.
#[tokio::test]
// verifies: late-request, P5
async fn a_refused_request_that_was_repeated_leaves_a_mark() {
    let fixture = Fixture::cluster().await;
    let through = client_of(&fixture);
    let (lease, _) = granted(&fixture.direct, &request(JOB, LONG)).await;
    // Loads the scripts.
    refused(&through, &request(JOB, LONG)).await;
    let before = fixture.requests_run();
    let arrived = async || fixture.requests_run() > before;
    let locker = locker(through.clone(), LONG);
    let attempt = without_reply(&fixture, arrived, locker.lock(JOB).try_acquire()).await.unwrap();
    assert!(matches!(attempt, TryAcquire::Contended(_)), "{attempt:?}");
    locker.wait_idle().await;
    let marks = command(fixture.ports[0], &["KEYS", &format!("onelock:{{{JOB}}}:g:*")]).unwrap();
    assert!(marks.starts_with("*1\r\n"), "the first copy may still arrive: {marks}");
    released(&fixture.direct, &lease).await;
}
