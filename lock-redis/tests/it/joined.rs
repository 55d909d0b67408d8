//! Shared locks and permits: their requests, their keys, and what third parties do to these.

use std::time::Duration;

use lock_core::{
    ErrorKind, Holder, LossReason, Mode,
    backend::{AcquireOutcome, Admin, Backend, Break, Grant, Lease, Release, Renewal},
};
use lock_redis::{Compat, RedisBackend};
use test_support::{
    Direction, Proxy,
    lost_messages::Network as _,
    redis::{RedisServer, command},
    requests::reported_once_together,
    until,
};

use crate::fixture::{
    Fixture, JOB, LONG, at, calls, client, exists, granted, left, name, permit, reader, refused, released, renewed,
    request, waiting_writer,
};

const LOCK: &str = "onelock:{job}";
const TOKEN: &str = "onelock:{job}:t";
const RECORDS: &str = "onelock:{job}:h";

/// Lets a part end soon, as if its holder had crashed.
async fn crashes(backend: &RedisBackend, lease: &Lease) {
    renewed(backend, &lease.clone().with_ttl(Duration::from_millis(1))).await;
}

/// Waits until one part is left.
async fn one_is_left(backend: &RedisBackend) {
    let count = async || backend.inspect(&name("job")).await.unwrap().map(|holder| holder.count());
    until("the crashed parts to end", async || count().await == Some(1)).await;
}

#[tokio::test]
async fn operations_on_parts_are_one_request() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    // The server has the scripts from now on.
    let (first, _) = granted(&backend, &reader("job")).await;
    renewed(&backend, &first).await;
    refused(&backend, &waiting_writer("job")).await;
    backend.inspect(&name("job")).await.unwrap();
    released(&backend, &first).await;
    server.command(&["FLUSHALL"]);
    let (exclusive, _) = granted(&backend, &request("other", LONG)).await;
    renewed(&backend, &exclusive).await;
    let mut before = calls(&server, "eval");
    let mut requests = || {
        let all = calls(&server, "eval");
        all - std::mem::replace(&mut before, all)
    };
    let mut leases = Vec::new();
    for n in 0..50 {
        leases.push(granted(&backend, &reader("job")).await.0);
        leases.push(granted(&backend, &permit(&format!("permits-{n}"), 2)).await.0);
    }
    assert_eq!(requests(), 100);
    let others = backend.renew_many(&leases).await;
    assert!(others.into_iter().all(|renewal| renewal.unwrap() == Renewal::Renewed));
    assert_eq!(requests(), 1);
    refused(&backend, &reader("other")).await;
    assert_eq!(requests(), 1);
    released(&backend, &leases[0]).await;
    assert_eq!(requests(), 1);
    let both = [exclusive, leases[2].clone(), leases[3].clone()];
    for renewal in backend.renew_many(&both).await {
        assert_eq!(renewal.unwrap(), Renewal::Renewed);
    }
    assert_eq!(requests(), 2, "one for the exclusive locks and one for the others");
    refused(&backend, &waiting_writer("job")).await;
    assert_eq!(requests(), 2, "an exclusive request that several holders refuse costs a second one");
    backend.inspect(&name("job")).await.unwrap();
    assert_eq!(requests(), 2);
}

#[tokio::test]
async fn every_key_of_parts_expires() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let (first, _) = granted(&backend, &reader("job")).await;
    let (second, _) = granted(&backend, &reader("job")).await;
    let _watch = backend.watch(&name("job")).await.unwrap().unwrap();
    refused(&backend, &waiting_writer("job")).await;
    assert_eq!(backend.release(&first, LONG).await.unwrap(), Release::Released);
    let never = reader("job").lease(None);
    assert!(matches!(backend.release(&never, Duration::ZERO).await.unwrap(), Release::NotHeld(Some(_))));
    let broken = backend.break_lock(&second.name, &second.id.to_string(), "test").await.unwrap();
    assert_eq!(broken, Break::Broken);
    let reply = server.command(&["KEYS", "*"]);
    let keys: Vec<_> = reply.lines().filter(|line| line.starts_with("onelock:")).collect();
    assert_eq!(keys.len(), 7, "lock, token, records, queue, mark, an unknown id, the trace of a break: {keys:?}");
    assert!(keys.iter().all(|key| left(&server, key) > 0), "{keys:?}");
}

#[tokio::test]
async fn released_parts_leave_only_the_token() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let (first, _) = granted(&backend, &permit("job", 2)).await;
    let (second, _) = granted(&backend, &permit("job", 2)).await;
    released(&backend, &first).await;
    released(&backend, &second).await;
    assert_eq!(server.command(&["DBSIZE"]), ":1\r\n");
    assert!(exists(&server, TOKEN));
    assert!(backend.purge(&second.name).await.unwrap());
    assert_eq!(server.command(&["DBSIZE"]), ":0\r\n");
}

#[tokio::test]
// verifies: P12
async fn the_key_expires_with_the_last_part() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let (long, _) = granted(&backend, &reader("job")).await;
    let short = reader("job").with_ttl(Duration::from_secs(60));
    let (_crashing, _) = granted(&backend, &short).await;
    assert!(left(&server, LOCK) > 500_000, "of the first part");
    released(&backend, &long).await;
    assert!((1..=60_001).contains(&left(&server, LOCK)), "of the second part");
    // A renewal and a repeated acquire extend the part, and then the key.
    renewed(&backend, &short.lease(None).with_ttl(LONG)).await;
    assert!(left(&server, LOCK) > 500_000);
    granted(&backend, &short).await;
    assert!((1..=60_001).contains(&left(&server, LOCK)));
}

#[tokio::test]
// verifies: P9, P12
async fn several_crashed_holders_are_reported_together() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let (staying, _) = granted(&backend, &reader("job")).await;
    let (first, _) = granted(&backend, &reader("job")).await;
    let (second, _) = granted(&backend, &reader("job")).await;
    crashes(&backend, &first).await;
    crashes(&backend, &second).await;
    one_is_left(&backend).await;
    reported_once_together(&backend, staying, [first, second]).await;
}

#[tokio::test]
async fn a_release_keeps_an_older_crash_known() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    for last in [false, true] {
        let (crashing, staying) = (reader("job"), reader("job"));
        let (first, second) = if last { (&staying, &crashing) } else { (&crashing, &staying) };
        granted(&backend, first).await;
        granted(&backend, second).await;
        crashes(&backend, &crashing.lease(None)).await;
        one_is_left(&backend).await;
        released(&backend, &staying.lease(None)).await;
        assert!(!exists(&server, LOCK), "only a crashed part is left");
        assert!(!backend.purge(&staying.name).await.unwrap(), "the next holder must be told");
        let (lease, grant) = granted(&backend, &request("job", LONG)).await;
        assert_eq!(grant.crashed.unwrap().version, Some(crashing.id.to_string()));
        released(&backend, &lease).await;
    }
}

#[tokio::test]
// verifies: P3, P12
async fn the_reason_of_a_lost_part_is_reported() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let (other, _) = granted(&backend, &reader("job")).await;
    let (expired, _) = granted(&backend, &reader("job")).await;
    let (broken, _) = granted(&backend, &reader("job")).await;
    let (gone, _) = granted(&backend, &reader("job")).await;
    released(&backend, &gone).await;
    assert_eq!(backend.break_lock(&other.name, &broken.id.to_string(), "alice").await.unwrap(), Break::Broken);
    assert_eq!(backend.renew(&broken).await.unwrap(), Renewal::Lost(LossReason::BrokenBy("alice".into())));
    assert_eq!(backend.renew(&gone).await.unwrap(), Renewal::Lost(LossReason::RecordGone));
    let late = async || backend.renew(&expired.clone().with_ttl(Duration::from_millis(1))).await.unwrap();
    until("the part to end", async || late().await == Renewal::Lost(LossReason::Expired)).await;
    server.command(&["DEL", LOCK]);
    let (writer, _) = granted(&backend, &request("job", LONG)).await;
    assert!(matches!(backend.release(&other, Duration::ZERO).await, Ok(Release::NotHeld(Some(_)))));
    let Renewal::Lost(LossReason::TakenBy(holder)) = backend.renew(&other).await.unwrap() else {
        panic!("it is taken")
    };
    assert_eq!((holder.version.as_deref(), holder.mode), (Some(&*writer.id.to_string()), Mode::Exclusive));
    server.command(&["DEL", LOCK]);
    granted(&backend, &permit("job", 2)).await;
    for lease in [&writer, &other] {
        let lost = backend.renew(lease).await.unwrap();
        assert!(matches!(&lost, Renewal::Lost(LossReason::TakenBy(by)) if by.mode != lease.mode), "{lost:?}");
        let Ok(Release::NotHeld(Some(by))) = backend.release(lease, Duration::ZERO).await else {
            panic!("it is taken")
        };
        assert!(by.foreign.is_none() && by.mode != lease.mode, "{by}");
    }
}

#[tokio::test]
async fn many_holders_are_counted_and_the_first_named() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.addr()).await;
    let backend = client(proxy.addr());
    for n in 0..40_u64 {
        let request = reader("job").with_ttl(LONG + Duration::from_secs(n)).with_data(vec![b'x'; 100_000]);
        granted(&backend, &request).await;
    }
    let before = proxy.bytes(Direction::Replies);
    let holder = refused(&backend, &request("job", LONG)).await;
    assert_eq!((holder.count(), holder.others.len()), (40, Holder::MOST_OTHERS));
    assert!(holder.expires_in.unwrap() <= LONG, "the first to expire comes first");
    let read = proxy.bytes(Direction::Replies) - before;
    assert!(read < 1_200_000, "{read} bytes");
    let listed = backend.list("").await.unwrap().locks;
    assert_eq!(listed.iter().map(|(_, holder)| holder.count()).collect::<Vec<_>>(), [40]);
}

#[tokio::test]
// verifies: not-ours, odd-entries, hostile-answers
async fn nonsense_beside_parts_is_bounded_and_frees_no_place() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.addr()).await;
    let backend = client(proxy.addr());
    let (first, _) = granted(&backend, &permit("job", 2)).await;
    let fill = "redis.call('ZADD', KEYS[1], ARGV[1], string.rep('x', 3000000))";
    server.command(&["EVAL", fill, "1", LOCK, "inf"]);
    let holder = refused(&backend, &permit("job", 2)).await;
    assert_eq!(holder.count(), 2, "what is not known to be free is not given away");
    assert!(holder.others[0].foreign.is_some() && holder.others[0].version.is_none(), "{holder}");
    renewed(&backend, &first).await;
    // Giant and foreign records, and none.
    server.command(&["HSET", RECORDS, &first.id.to_string(), &"y".repeat(2_000_000)]);
    let version = Some(first.id.to_string());
    assert_eq!(refused(&backend, &request("job", LONG)).await.version, version);
    server.command(&["DEL", RECORDS]);
    server.command(&["SET", RECORDS, "text"]);
    assert_eq!(backend.inspect(&first.name).await.unwrap().unwrap().version, version);
    assert_eq!(backend.list("").await.unwrap().locks.len(), 1);
    let read = proxy.bytes(Direction::Replies);
    assert!(read < 20_000, "{read} bytes");
    server.command(&["DEL", RECORDS]);
    released(&backend, &first).await;
    assert!(exists(&server, LOCK), "the entry of another client stays");
}

#[tokio::test]
// verifies: odd-entries
async fn a_lock_in_an_unknown_mode_is_corrupt_and_hides_no_lock() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    granted(&backend, &reader("mine")).await;
    server.command(&["ZADD", LOCK, "-inf", "onelock:?", "9000000000000000", &reader("job").id.to_string()]);
    for request in [reader("job"), permit("job", 2), request("job", LONG)] {
        assert_eq!(backend.acquire(&request).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let listed = backend.list("").await.unwrap();
    assert_eq!(listed.locks.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["mine"]);
    assert_eq!(listed.odd().len(), 1);
}

#[tokio::test]
// verifies: P12
async fn a_key_that_outlives_its_parts_keeps_no_mode() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let (ended, _) = granted(&backend, &permit("job", 2)).await;
    // As after a renewal that failed once the key had its new end.
    server.command(&["ZADD", LOCK, "1", &ended.id.to_string()]);
    granted(&backend, &reader("job")).await;
    assert_eq!(refused(&backend, &permit("job", 2)).await.mode, Mode::Shared);
    granted(&backend, &reader("job")).await;
}

#[tokio::test]
async fn parts_are_renewed_released_and_broken_on_a_full_server() {
    let server = RedisServer::start();
    let backend = client(server.addr());
    let (request, broken) = (reader("job"), reader("job"));
    let (lease, _) = granted(&backend, &request).await;
    granted(&backend, &broken).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    renewed(&backend, &lease).await;
    let again = backend.acquire(&request).await.unwrap();
    assert!(matches!(again, AcquireOutcome::Granted(Grant { already_ours: true, .. })), "{again:?}");
    for next in [reader("job"), reader("other")] {
        assert_eq!(backend.acquire(&next).await.unwrap_err().kind(), ErrorKind::Full);
    }
    let broken = backend.break_lock(&lease.name, &broken.id.to_string(), "test").await.unwrap();
    assert_eq!(broken, Break::Broken);
    released(&backend, &lease).await;
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(None));
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    let (next, grant) = granted(&backend, &crate::fixture::request("job", LONG)).await;
    assert!(next.token > lease.token && grant.crashed.is_none());
}

#[tokio::test]
// verifies: P11, P12
async fn compat_modes_refuse_shared_locks_and_permits() {
    let server = RedisServer::start();
    for compat in [Compat::RedisPy, Compat::PythonRedisLock] {
        let backend = RedisBackend::new(at(server.addr()).compat(compat)).unwrap();
        let capabilities = backend.capabilities();
        assert!(!capabilities.shared && !capabilities.permits);
        for request in [reader("job"), permit("job", 2)] {
            let error = backend.acquire(&request).await.unwrap_err();
            assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Unsupported, false));
        }
    }
    assert_eq!(server.command(&["DBSIZE"]), ":0\r\n");
}

#[tokio::test]
// verifies: late-request, P12
async fn a_part_whose_acquire_got_no_reply_leaves_a_mark() {
    let fixture = Fixture::standalone().await;
    granted(&fixture.direct, &reader(JOB)).await;
    let request = reader(JOB);
    fixture.lose(Direction::Replies);
    assert!(fixture.through.acquire(&request).await.unwrap_err().is_ambiguous());
    fixture.heal();
    let release = async || fixture.through.release(&request.lease(None), Duration::ZERO).await;
    until("the connection to be made again", async || release().await.is_ok()).await;
    // The next release of another reader overwrites what the records say of this one.
    let mark = format!("onelock:{{{JOB}}}:g:{}", request.id);
    assert_eq!(command(fixture.ports[0], &["EXISTS", &mark]).unwrap(), ":1\r\n");
}
