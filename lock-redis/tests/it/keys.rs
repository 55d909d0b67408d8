//! The requests of each operation, and the keys that remain.

use std::time::Duration;

use futures_util::FutureExt as _;
use lock_core::{
    FencingToken, LossReason,
    backend::{AcquireOutcome, AcquireRequest, Admin, Backend, Break, LeaseId, Release, Renewal},
};
use test_support::redis::RedisServer;

use crate::fixture::{LONG, calls, client, granted, left, name, reader, refused, released, request};

fn keys(server: &RedisServer) -> Vec<String> {
    let reply = server.command(&["KEYS", "*"]);
    let mut keys: Vec<_> = reply.lines().filter(|line| line.starts_with("onelock:")).map(str::to_owned).collect();
    keys.sort();
    keys
}

fn life(server: &RedisServer, key: &str) -> Duration {
    let millis = left(server, key).try_into().unwrap_or_else(|_| panic!("{key} never expires"));
    Duration::from_millis(millis)
}

#[tokio::test]
async fn each_operation_and_a_hundred_renewals_are_one_request() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let mut leases = Vec::new();
    for n in 0..100 {
        leases.push(granted(&backend, &request(&format!("job-{n}"), LONG)).await.0);
    }
    let renewed = async |leases: &[_]| {
        for renewal in backend.renew_many(leases).await {
            assert_eq!(renewal.unwrap(), Renewal::Renewed);
        }
    };
    // The server has the scripts from now on.
    renewed(&leases[..1]).await;
    assert_eq!(backend.release(&leases.swap_remove(0), Duration::ZERO).await.unwrap(), Release::Released);
    let before = calls(&server, "eval");
    let requests = || calls(&server, "eval") - before;
    leases.push(granted(&backend, &request("job-0", LONG)).await.0);
    assert_eq!(requests(), 1);
    refused(&backend, &request("job-0", LONG)).await;
    assert_eq!(requests(), 2, "the refusal names the holder");
    renewed(&leases).await;
    assert_eq!(requests(), 3);
    assert_eq!(backend.release(&leases[0], Duration::ZERO).await.unwrap(), Release::Released);
    assert_eq!(requests(), 4);
}

#[tokio::test]
async fn a_foreign_value_is_respected_by_every_operation() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    for expires in [false, true] {
        server.command(&["SET", "onelock:{job}", "a foreigner"]);
        if expires {
            server.command(&["EXPIRE", "onelock:{job}", "500"]);
        }
        let request = request("job", LONG);
        let holder = refused(&backend, &request).await;
        let never = if expires { "" } else { " whose key never expires" };
        assert_eq!(holder.foreign, Some(format!("a foreign Redis client{never}")));
        assert_eq!((holder.expires_in.is_some(), holder.version), (expires, None));
        let lease = request.lease(None);
        assert!(matches!(backend.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::TakenBy(_))));
        assert!(matches!(backend.release(&lease, LONG).await.unwrap(), Release::NotHeld(Some(_))));
        for version in [request.id.to_string(), "a foreigner".into(), String::new()] {
            let broken = backend.break_lock(&request.name, &version, "test").await.unwrap();
            assert!(matches!(broken, Break::Changed(Some(_))), "{broken:?}");
        }
        assert!(!backend.purge(&request.name).await.unwrap());
        assert_eq!(server.command(&["GET", "onelock:{job}"]), "$11\r\na foreigner\r\n");
        assert_eq!(server.command(&["TTL", "onelock:{job}"]).starts_with(":-1"), !expires);
        assert_eq!(backend.list("").await.unwrap().locks.len(), 1, "it blocks the lock");
    }
}

#[tokio::test]
async fn a_holder_whose_lock_was_broken_is_not_reported_as_crashed() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    assert_eq!(backend.break_lock(&lease.name, &lease.id.to_string(), "test").await.unwrap(), Break::Broken);
    let (_, grant) = granted(&backend, &request("job", LONG)).await;
    assert_eq!(grant.crashed, None);
    server.command(&["DEL", "onelock:{job}"]);
    let (_, grant) = granted(&backend, &request("job", LONG)).await;
    assert!(grant.crashed.is_some(), "this one has");
}

#[tokio::test]
async fn locks_are_listed_from_among_many_keys() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    // More keys than SCAN reads in one step.
    server.command(&["EVAL", "for i = 1, 5000 do redis.call('SET', 'onelock:{other-' .. i .. '}:t', 1) end", "0"]);
    let mut names = Vec::new();
    for n in 0..20 {
        names.push(granted(&backend, &request(&format!("job-{n:02}"), LONG)).await.0.name);
    }
    // A prefix is not a pattern.
    granted(&backend, &request("job?", LONG)).await;
    let listed = async |prefix: &str| backend.list(prefix).await.unwrap().locks.into_iter().map(|(name, _)| name);
    assert_eq!(listed("job-").await.collect::<Vec<_>>(), names);
    assert_eq!(listed("job?").await.collect::<Vec<_>>(), [name("job?")]);
    // Names whose keys are escaped.
    for odd in ["}job", "%job"] {
        granted(&backend, &request(odd, LONG)).await;
        assert_eq!(listed(&odd[..1]).await.collect::<Vec<_>>(), [name(odd)]);
    }
    assert_eq!(listed("").await.count(), 23);
}

#[tokio::test]
// verifies: odd-entries
async fn keys_with_invalid_names_are_odd_entries() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    granted(&backend, &request("job", LONG)).await;
    for script in [r"redis.call('SET', 'onelock:{}', 1)", r"redis.call('SET', 'onelock:{j\255}', 1)"] {
        server.command(&["EVAL", script, "0"]);
    }
    let odd = async |prefix: &str| {
        let listed = backend.list(prefix).await.unwrap();
        assert_eq!(listed.locks.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["job"]);
        listed.odd().iter().map(|entry| entry.place.clone()).collect::<Vec<_>>()
    };
    assert_eq!(odd("").await, ["the key \"onelock:{j\u{fffd}}\"", "the key \"onelock:{}\""]);
    assert_eq!(odd("j").await, ["the key \"onelock:{j\u{fffd}}\""]);
}

#[tokio::test]
async fn a_released_lock_leaves_its_token_for_30_days() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    assert_eq!(keys(&server), ["onelock:{job}:t"]);
    let day = Duration::from_secs(24 * 3600);
    assert!(life(&server, "onelock:{job}:t") > 29 * day && life(&server, "onelock:{job}:t") <= 30 * day);
}

#[tokio::test]
async fn every_key_expires() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    let _watch = backend.watch(&name("job")).await.unwrap().unwrap();
    refused(&backend, &request("job", LONG)).await;
    let never = request("job", LONG).lease(None);
    assert!(matches!(backend.release(&never, Duration::ZERO).await.unwrap(), Release::NotHeld(_)));
    let holder = backend.inspect(&lease.name).await.unwrap().unwrap();
    assert_eq!(backend.break_lock(&lease.name, &holder.version.unwrap(), "test").await.unwrap(), Break::Broken);
    let (next, _) = granted(&backend, &request("job", LONG)).await;
    assert_eq!(backend.release(&next, LONG).await.unwrap(), Release::Released);
    refused(&backend, &request("job", LONG)).await;
    assert_eq!(keys(&server).len(), 5, "lock, token, queue, the mark of an unknown id and the trace of a break");
    for key in keys(&server) {
        assert!(life(&server, &key) > Duration::ZERO, "{key}");
    }
}

#[tokio::test]
async fn a_lock_that_is_granted_again_lasts_a_whole_ttl() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let request = request("job", LONG);
    granted(&backend, &request).await;
    server.command(&["PEXPIRE", "onelock:{job}", "60000"]);
    assert!(granted(&backend, &request).await.1.already_ours);
    assert!(life(&server, "onelock:{job}") > LONG / 2);
}

#[tokio::test]
async fn a_release_restores_a_lost_token() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    server.command(&["DEL", "onelock:{job}:t"]);
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    let kept = server.command(&["GETRANGE", "onelock:{job}:t", "0", "15"]);
    assert_eq!(kept.lines().nth(1), Some(lease.token.unwrap().to_string().as_str()));
}

#[tokio::test]
async fn a_release_marks_a_token_of_any_length() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    for token in ["7", "8000000000000000"] {
        let (lease, _) = granted(&backend, &request("job", LONG)).await;
        let kept = server.command(&["GET", "onelock:{job}:t"]).lines().nth(1).unwrap().to_owned();
        let (_, record) = kept.split_once(' ').unwrap();
        server.command(&["SET", "onelock:{job}:t", &format!("{token} {record}")]);
        assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
        let kept = server.command(&["GET", "onelock:{job}:t"]).lines().nth(1).unwrap().to_owned();
        assert!(kept.starts_with(&format!("{token} R{} ", lease.id)), "{kept}");
    }
}

#[tokio::test]
// verifies: clock-set
async fn a_token_rises_although_the_clock_has_gone_back() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    // As if the token had been minted while the clock was two centuries ahead.
    let record = server.command(&["GET", "onelock:{job}:t"]).lines().nth(1).unwrap().to_owned();
    let ahead: u64 = 8_000_000_000_000_000;
    let (_, rest) = record.split_once(' ').unwrap();
    server.command(&["SET", "onelock:{job}:t", &format!("{ahead} {rest}")]);
    for n in 1..4 {
        let (lease, _) = granted(&backend, &request("job", LONG)).await;
        assert_eq!(lease.token.unwrap().get(), ahead + n);
        assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    }
}

#[tokio::test]
async fn a_token_in_use_gets_its_whole_lifetime_again() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let key = "onelock:{job}:t";
    let (lease, _) = granted(&backend, &request("job", LONG)).await;
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    let day = Duration::from_secs(24 * 3600);
    let two_days_ago = lease.token.unwrap().get() - 2 * 86_400_000_000;
    // The second one was minted while the clock was two centuries ahead.
    for minted in [two_days_ago, 8_000_000_000_000_000] {
        server.command(&["SETRANGE", key, "0", &minted.to_string()]);
        server.command(&["PEXPIRE", key, "60000"]);
        let (lease, _) = granted(&backend, &request("job", LONG)).await;
        assert!(life(&server, key) > 29 * day, "minted {minted}: {:?}", life(&server, key));
        assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    }
}

#[tokio::test]
async fn each_record_replaces_the_last_one_as_a_whole() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let mut last = None;
    for owner in ["etl:1", "etl:2", "e", "etl:345", "etl:6789"] {
        let request = AcquireRequest::new(name("job"), LeaseId::random(), owner).with_ttl(LONG);
        let (_, grant) = granted(&backend, &request).await;
        assert_eq!(grant.crashed.and_then(|holder| holder.owner), last);
        server.command(&["DEL", "onelock:{job}"]);
        last = Some(owner.to_owned());
    }
}

#[tokio::test]
async fn a_waiter_leaves_the_queue_once_granted() {
    let server = RedisServer::start();
    let (holder, waiter) = (client(server.addr()), client(server.addr()));
    granted(&holder, &request("job", LONG)).await;
    let _watch = waiter.watch(&name("job")).await.unwrap().unwrap();
    assert_eq!(server.command(&["ZCARD", "onelock:{job}:w"]), ":1\r\n");
    // The holder's lease ends without a wake-up.
    server.command(&["DEL", "onelock:{job}"]);
    assert!(matches!(waiter.acquire(&request("job", LONG)).await.unwrap(), AcquireOutcome::Granted(_)));
    assert_eq!(server.command(&["ZCARD", "onelock:{job}:w"]), ":0\r\n", "a wake-up for it would be lost");
}

#[tokio::test]
async fn a_waiter_that_was_woken_too_late_keeps_its_place() {
    let server = RedisServer::start();
    let (holder, first, second) = (client(server.addr()), client(server.addr()), client(server.addr()));
    let (lease, _) = granted(&holder, &request("job", LONG)).await;
    let mut woken = first.watch(&name("job")).await.unwrap().unwrap();
    let _behind = second.watch(&name("job")).await.unwrap().unwrap();
    let queue = || server.command(&["ZRANGE", "onelock:{job}:w", "0", "-1"]);
    let before = queue();
    assert_eq!(holder.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    woken.changed().await;
    // Another client, which did not wait, was faster.
    granted(&holder, &request("job", LONG)).await;
    refused(&first, &request("job", LONG)).await;
    assert_eq!(queue(), before);
}

/// A late duplicate of the acquire has the same stamp. A mark that is no later would let it in.
#[tokio::test]
// verifies: late-request
async fn a_break_leaves_a_mark_that_is_later_than_the_acquire() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    for request in [request("job", LONG), reader("job")] {
        let (lease, _) = granted(&backend, &request).await;
        let id = lease.id.to_string();
        // Both the record and the mark are the id and then a stamp.
        let stamp = || {
            let kept = server.command(&["GET", "onelock:{job}:t"]);
            kept.split_once(&*id).and_then(|(_, rest)| rest.split_whitespace().next()).map(|stamp| stamp.parse::<u64>())
        };
        let acquired = stamp().expect("the key names the holder").unwrap();
        assert_eq!(backend.break_lock(&lease.name, &id, "alice").await.unwrap(), Break::Broken);
        assert!(stamp().expect("the key names the broken holder").unwrap() > acquired);
    }
}

#[tokio::test]
// verifies: late-request
async fn a_request_from_before_the_release_of_its_id_is_refused() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    for request in [request("job", LONG), reader("job")] {
        let (lease, _) = granted(&backend, &request).await;
        assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
        let kept = server.command(&["GET", "onelock:{job}:t"]);
        let (token, _) = kept.lines().nth(1).and_then(|kept| kept.split_once(' ')).expect("a mark follows the token");
        // As if the release had been sent later than the next request of the id.
        let mark = format!("{token} R{} 9000000000000000 ", request.id);
        server.command(&["SET", "onelock:{job}:t", &mark]);
        assert!(backend.acquire(&request).await.is_err(), "{mark}");
        assert_eq!(backend.inspect(&request.name).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_watch_of_a_free_lock_waits_for_its_next_release() {
    let server = RedisServer::start();
    let (holder, other) = (client(server.addr()), client(server.addr()));
    let mut watch = other.watch(&name("job")).await.unwrap().unwrap();
    // The process that watches lets others have the lock first.
    assert!(watch.changed().now_or_never().is_none(), "no process has had the lock");
    let (lease, _) = granted(&holder, &request("job", LONG)).await;
    assert!(watch.changed().now_or_never().is_none(), "the lock is held");
    released(&holder, &lease).await;
    tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.expect("the release wakes it");
}

#[tokio::test]
// verifies: P1, P7, P12
async fn a_raised_token_changes_no_other_holder_and_no_end() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    for (shared, lost) in [(false, false), (false, true), (true, false), (true, true)] {
        let [held, other] = [(); 2].map(|()| if shared { reader("job") } else { request("job", LONG) });
        let (lease, grant) = granted(&backend, &held).await;
        let token = grant.token.unwrap();
        let [raised, higher] = [1_000_000_000, 2_000_000_000].map(|n| FencingToken::new(token.get() + n).unwrap());
        assert!(backend.advance_token(&lease, raised).await.unwrap());
        // Without the lock there is nothing to raise, so a server of a quorum must not count.
        assert!(!backend.advance_token(&other.lease(grant.token), higher).await.unwrap());
        let holder = backend.inspect(&held.name).await.unwrap().unwrap();
        assert_eq!((holder.version, holder.token), (Some(held.id.to_string()), Some(raised)));
        // The key of a lock with several holders expires with the next whole millisecond.
        assert!(life(&server, "onelock:{job}") <= LONG + Duration::from_millis(1));
        if lost {
            server.command(&["DEL", "onelock:{job}:t"]);
        }
        released(&backend, &lease).await;
        let (next, grant) = granted(&backend, &other).await;
        assert!(grant.token > Some(raised) && grant.token < Some(higher), "{grant:?}");
        released(&backend, &next).await;
    }
}
