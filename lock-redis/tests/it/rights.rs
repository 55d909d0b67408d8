//! What a Redis user needs, and what a right that it lacks does to its locks and those of others.

use std::time::Duration;

use lock_core::{
    Error, ErrorKind, FencingToken, Mode,
    backend::{AcquireOutcome, Admin, Backend, Break, Grant, LeaseId, Release, Renewal},
};
use lock_redis::{RedisBackend, RedisConfig};
use test_support::redis::RedisServer;

use crate::{
    access::{advice, request, tcp, use_all},
    fixture::{self, LONG, granted, left, reader, refused, released, renewed, waiting_writer},
};

const LOCK: &str = "onelock:{job}";

/// The rules in the README for a user that may only use locks.
const RULES: &[&str] = &[
    "resetkeys",
    "~onelock:*",
    "resetchannels",
    "&onelock:*",
    "+evalsha",
    "+eval",
    "+mget",
    "+set",
    "+setrange",
    "+del",
    "+pexpire",
    "+pttl",
    "+type",
    "+exists",
    "+time",
    "+publish",
    "+subscribe",
    "+zadd",
    "+zrem",
    "+zpopmin",
    "+zrange",
    "+zrangebyscore",
    "+zcount",
    "+hget",
    "+zrank",
    "+hdel",
    "+scan",
    "+hello",
    "+select",
    "+ping",
];

/// The further rules in the README for shared locks and permits.
const MODE_RULES: &[&str] = &["+zrevrange", "+zscore", "+hmget", "+hset", "+pexpireat"];

/// The further rules in the README for fair requests.
const FAIR_RULES: &[&str] = &["+zscore", "+hset"];

/// The [`RULES`] that only a request needs which several holders refuse.
const READING_RULES: &[&str] = &["+zrange", "+zrangebyscore", "+zcount", "+hget"];

/// Logs in as a user with these rules only.
fn as_user(server: &RedisServer, rules: &[&str]) -> RedisConfig {
    let reply = server.command(&[&["ACL", "SETUSER", "app", "reset", "on", ">s3cret"], rules].concat());
    assert_eq!(reply, "+OK\r\n");
    tcp(server).login("app", "s3cret")
}

/// Logs in as a user who lacks one of the [`RULES`].
fn as_user_without(server: &RedisServer, missing: &str) -> RedisConfig {
    as_user(server, &RULES.iter().copied().filter(|rule| *rule != missing).collect::<Vec<_>>())
}

/// Runs every operation on several holders once.
async fn use_modes(config: RedisConfig) -> Result<(), Error> {
    let backend = RedisBackend::new(config)?;
    let name = &format!("all/{}", LeaseId::random());
    let [first, second, third] = [(); 3].map(|()| request(name).with_mode(Mode::Shared));
    let writer = request(name).with_waits(true);
    let mut leases = Vec::new();
    for request in [&first, &second, &third] {
        let AcquireOutcome::Granted(grant) = backend.acquire(request).await? else { panic!("readers may join") };
        leases.push(request.lease(grant.token));
    }
    // A part that ends, and is cleared away by the next reader.
    let short = leases[1].clone().with_ttl(Duration::from_millis(1));
    while backend.renew(&short).await? == Renewal::Renewed {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(matches!(backend.acquire(&third).await?, AcquireOutcome::Granted(Grant { already_ours: true, .. })));
    assert!(matches!(backend.acquire(&second).await?, AcquireOutcome::Granted(_)));
    assert!(matches!(backend.acquire(&writer).await?, AcquireOutcome::Contended(_)));
    assert_eq!(backend.list(&name[..20]).await?.locks.len(), 1);
    assert!(matches!(backend.release(&writer.lease(None), Duration::ZERO).await?, Release::NotHeld(_)));
    let token = leases[0].token.and_then(|token| FencingToken::new(token.get() + 1_000_000_000));
    assert!(backend.advance_token(&leases[0], token.expect("below the largest")).await?);
    assert_eq!(backend.break_lock(&first.name, &first.id.to_string(), "test").await?, Break::Broken);
    assert_eq!(backend.release(&leases[1], Duration::from_millis(1)).await?, Release::Released);
    assert_eq!(backend.release(&leases[2], Duration::ZERO).await?, Release::Released);
    Ok(())
}

#[tokio::test]
async fn locks_need_no_more_than_the_documented_rules() {
    let server = RedisServer::start();
    use_all(as_user(&server, RULES)).await.unwrap();
    for missing in ["+mget", "+set", "+setrange", "+del", "+evalsha", "+pexpire", "~onelock:*"] {
        let told = advice(as_user_without(&server, missing), "the README of lock-redis lists the ACL rules").await;
        assert_eq!(told, (ErrorKind::PermissionDenied, false), "without {missing}");
    }
    assert!(include_str!("../../README.md").contains(&RULES.join(" ")), "the README has these rules");
}

#[tokio::test]
async fn command_denied_for_the_keys_of_a_lock_is_a_missing_right() {
    let server = RedisServer::start();
    for command in ["mget", "set", "setrange", "del", "pexpire"] {
        let only_elsewhere = [&*format!("-{command}"), &*format!("(+{command} ~elsewhere:*)")];
        let user = as_user(&server, &[RULES, &only_elsewhere].concat());
        let told = advice(user, "the README of lock-redis lists the ACL rules").await;
        assert_eq!(told, (ErrorKind::PermissionDenied, false), "{command}");
    }
}

#[tokio::test]
async fn shared_locks_need_no_more_than_their_rules() {
    let server = RedisServer::start();
    let with = |rules: &[&str]| as_user(&server, &[RULES, rules].concat());
    use_modes(with(MODE_RULES)).await.unwrap();
    for missing in MODE_RULES.iter().filter(|rule| **rule != "+zrevrange") {
        let fewer: Vec<_> = MODE_RULES.iter().copied().filter(|rule| rule != missing).collect();
        let error = use_modes(with(&fewer)).await.expect_err(missing);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "without {missing}: {error}");
    }
    assert!(include_str!("../../README.md").contains(&MODE_RULES.join(" ")), "the README has these rules");
}

#[tokio::test]
// verifies: odd-entries
async fn a_key_that_may_not_be_read_hides_no_lock() {
    let server = RedisServer::start();
    let all = RedisBackend::new(tcp(&server)).unwrap();
    for name in ["a", "m", "z"] {
        assert!(matches!(all.acquire(&request(name)).await.unwrap(), AcquireOutcome::Granted(_)));
    }
    let reader = |keys: &[&str]| {
        let rules: Vec<_> = RULES.iter().filter(|rule| **rule != "~onelock:*").chain(keys).copied().collect();
        RedisBackend::new(as_user(&server, &rules)).unwrap()
    };
    let listed = reader(&["~onelock:{a}*", "~onelock:{z}*"]).list("").await.unwrap();
    assert_eq!(listed.locks.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "z"]);
    assert_eq!((listed.odd().len(), listed.odd()[0].place.as_str()), (1, "the key \"onelock:{m}\""));
    assert!(listed.odd()[0].reason.contains("lacks a permission"), "{}", listed.odd()[0].reason);
    // An answer without a single readable key would look like a store without locks.
    let error = reader(&["~elsewhere:*"]).list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
}

#[tokio::test]
async fn a_user_without_the_time_reads_locks_without_age() {
    let server = RedisServer::start();
    let all = RedisBackend::new(tcp(&server)).unwrap();
    let held = request("job");
    assert!(matches!(all.acquire(&held).await.unwrap(), AcquireOutcome::Granted(_)));
    assert!(all.inspect(&held.name).await.unwrap().unwrap().held_for.is_some());
    let reader = RedisBackend::new(as_user_without(&server, "+time")).unwrap();
    let holder = reader.inspect(&held.name).await.unwrap().expect("it is held");
    assert!(holder.held_for.is_none() && holder.since.is_some(), "{holder}");
}

#[tokio::test]
async fn a_user_without_wake_up_rights_can_release() {
    let server = RedisServer::start();
    let waiter = RedisBackend::new(tcp(&server)).unwrap();
    for missing in ["+publish", "+zpopmin"] {
        let quiet = RedisBackend::new(as_user_without(&server, missing)).unwrap();
        let request = request("job");
        let AcquireOutcome::Granted(grant) = quiet.acquire(&request).await.unwrap() else { panic!("the lock is free") };
        let _watch = waiter.watch(&request.name).await.unwrap().expect("Redis wakes");
        let released = quiet.release(&request.lease(grant.token), Duration::ZERO).await;
        assert_eq!(released.unwrap(), Release::Released, "without {missing}");
    }
}

#[tokio::test]
async fn a_user_without_zrem_rights_can_acquire() {
    let server = RedisServer::start();
    let backend = RedisBackend::new(as_user_without(&server, "+zrem")).unwrap();
    let (holder, waiter) = (request("job"), request("job"));
    let AcquireOutcome::Granted(grant) = backend.acquire(&holder).await.unwrap() else { panic!("the lock is free") };
    let _watch = backend.watch(&waiter.name).await.unwrap().expect("Redis wakes");
    assert!(matches!(backend.acquire(&waiter).await.unwrap(), AcquireOutcome::Contended(_)));
    // Without a release, whose wake-up would remove the process from the queue.
    let removed = server.command(&["DEL", "onelock:{job}"]);
    assert_eq!(removed, ":1\r\n");
    let attempt = backend.acquire(&waiter).await.unwrap();
    assert!(matches!(&attempt, AcquireOutcome::Granted(new) if new.token > grant.token), "{attempt:?}");
}

#[tokio::test]
// verifies: P3
async fn a_user_who_may_not_read_the_new_holders_learns_of_the_loss() {
    let server = RedisServer::start();
    let backend = RedisBackend::new(as_user(&server, RULES)).unwrap();
    let (lease, _) = granted(&backend, &request("job")).await;
    server.command(&["DEL", "onelock:{job}"]);
    let other = RedisBackend::new(tcp(&server)).unwrap();
    granted(&other, &reader("job")).await;
    assert!(matches!(backend.renew(&lease).await, Ok(Renewal::Lost(_))));
}

#[tokio::test]
async fn fair_requests_need_no_more_than_their_rules() {
    let server = RedisServer::start();
    let with = |rules: &[&str]| RedisBackend::new(as_user(&server, &[RULES, rules].concat())).unwrap();
    let ask = async |backend: &RedisBackend, name: &str| {
        let [held, fair] = [request(name), request(name).with_fair(true).with_waits(true)];
        granted(backend, &held).await;
        assert!(matches!(backend.acquire(&fair).await?, AcquireOutcome::Contended(_)));
        released(backend, &held.lease(None)).await;
        assert!(matches!(backend.acquire(&request(name)).await?, AcquireOutcome::Contended(_)));
        assert!(matches!(backend.acquire(&fair).await?, AcquireOutcome::Granted(_)));
        backend.release(&fair.lease(None), Duration::ZERO).await
    };
    assert_eq!(ask(&with(FAIR_RULES), "all").await.unwrap(), Release::Released);
    for missing in FAIR_RULES {
        let fewer: Vec<_> = FAIR_RULES.iter().copied().filter(|rule| rule != missing).collect();
        let error = ask(&with(&fewer), missing).await.expect_err(missing);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "without {missing}: {error}");
    }
    assert!(include_str!("../../README.md").contains(&FAIR_RULES.join(" ")), "the README has these rules");
}

#[tokio::test]
async fn a_user_of_exclusive_locks_waits_for_readers() {
    let server = RedisServer::start();
    let all = RedisBackend::new(tcp(&server)).unwrap();
    let held = reader("job");
    granted(&all, &held).await;
    for missing in [None].into_iter().chain(READING_RULES.iter().map(Some)) {
        let rules: Vec<_> = RULES.iter().copied().filter(|rule| Some(rule) != missing).collect();
        let user = RedisBackend::new(as_user(&server, &rules)).unwrap();
        for wait in [request("job"), waiting_writer("job")] {
            let holder = refused(&user, &wait).await;
            let unread = holder.foreign.as_deref() == Some("several holders that this Redis user may not read");
            let named = holder.owner == Some(held.owner.clone()) && holder.mode == Mode::Shared;
            assert!(holder.expires_in.is_some_and(|left| left <= LONG), "{holder}");
            match missing {
                None => assert!(named, "{holder}"),
                // Without the records, the holders have no names.
                Some(&"+hget") => assert!(holder.mode == Mode::Shared && holder.owner.is_none(), "{holder}"),
                Some(_) => assert!(unread, "{holder}"),
            }
            if unread {
                // The core does not know of a wait here, so the refusal must have left no mark.
                released(&all, &granted(&all, &reader("job")).await.0).await;
            }
            assert!(matches!(user.release(&wait.lease(None), Duration::ZERO).await, Ok(Release::NotHeld(_))));
            released(&all, &granted(&all, &reader("job")).await.0).await;
        }
    }
}

#[tokio::test]
async fn a_user_of_exclusive_locks_waits_behind_a_queue() {
    let server = RedisServer::start();
    let all = RedisBackend::new(tcp(&server)).unwrap();
    let user = RedisBackend::new(as_user(&server, RULES)).unwrap();
    let [held, fair, gone] = [(); 3].map(|()| request("job"));
    let [fair, gone] = [fair, gone].map(|request| request.with_fair(true).with_waits(true));
    granted(&all, &held).await;
    refused(&all, &gone.clone().with_ttl(Duration::from_millis(1))).await;
    refused(&all, &fair).await;
    released(&all, &held.lease(None)).await;
    refused(&user, &request("job")).await;
    granted(&all, &fair).await;
    released(&all, &fair.lease(None)).await;
    granted(&user, &request("job")).await;
}

#[tokio::test]
// verifies: P12
async fn a_part_that_cannot_be_renewed_ends_no_other() {
    let server = RedisServer::start();
    let all = RedisBackend::new(tcp(&server)).unwrap();
    granted(&all, &reader("job")).await;
    let user = RedisBackend::new(as_user(&server, &["~*", "&*", "+@all"])).unwrap();
    let short = reader("job").with_ttl(Duration::from_secs(60));
    let (lease, _) = granted(&user, &short).await;
    assert_eq!(server.command(&["ACL", "SETUSER", "app", "-zadd"]), "+OK\r\n");
    let others_last = |what: &str| assert!(left(&server, LOCK) > 500_000, "{what}: {}", left(&server, LOCK));
    assert_eq!(user.renew(&lease).await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    others_last("a renewal");
    assert_eq!(user.acquire(&short).await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    others_last("a repeated acquire");
    let hold_for = Duration::from_millis(1);
    assert_eq!(user.release(&lease, hold_for).await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    others_last("a release with a minimum hold");
    assert_eq!(refused(&all, &request("job")).await.count(), 2, "a release that failed has ended no part");
    assert_eq!(server.command(&["ACL", "SETUSER", "app", "+zadd"]), "+OK\r\n");
    renewed(&user, &lease).await;
}

#[tokio::test]
async fn a_missing_right_leaves_no_part_without_an_end() {
    let server = RedisServer::start();
    for missing in ["-hset", "-pexpire"] {
        let user = RedisBackend::new(as_user(&server, &["~*", "&*", "+@all", missing])).unwrap();
        let error = user.acquire(&reader("job")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{missing}: {error}");
        assert_ne!(left(&server, LOCK), -1, "{missing}");
        server.command(&["DEL", LOCK]);
    }
}

#[tokio::test]
async fn a_minimum_hold_that_cannot_be_written_frees_no_lock() {
    let server = RedisServer::start();
    let all = RedisBackend::new(tcp(&server)).unwrap();
    let user = RedisBackend::new(as_user(&server, &["~*", "&*", "+@all"])).unwrap();
    let (lease, _) = granted(&user, &request("job")).await;
    assert_eq!(server.command(&["ACL", "SETUSER", "app", "-set"]), "+OK\r\n");
    assert_eq!(user.release(&lease, LONG).await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    refused(&all, &request("job")).await;
    assert_eq!(server.command(&["ACL", "SETUSER", "app", "+set"]), "+OK\r\n");
    assert_eq!(user.release(&lease, LONG).await.unwrap(), Release::Released);
    refused(&all, &request("job")).await;
}

#[tokio::test]
// verifies: P5
async fn a_script_that_fails_after_the_grant_leaves_no_lock() {
    let server = RedisServer::start();
    let user = RedisBackend::new(as_user(&server, &["~*", "&*", "+@all", "-exists"])).unwrap();
    let locker = fixture::locker(user, LONG);
    let error = locker.lock("job").fair(true).acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::PermissionDenied, false));
    locker.wait_idle().await;
    assert!(fixture::calls(&server, "set:") > 0, "the script has granted the lock before it failed");
    assert_eq!(left(&server, LOCK), -2, "{error}");
}
