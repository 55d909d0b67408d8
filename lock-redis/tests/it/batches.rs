//! Requests that several tasks make at once, which share calls.

use std::time::Duration;

use futures_util::{FutureExt as _, future::join_all};
use lock_core::{
    Error, ErrorKind,
    backend::{AcquireOutcome, AcquireRequest, Admin as _, Backend as _, Lease, LeaseId, Release},
};
use lock_redis::{RedisBackend, RedisConfig};
use test_support::redis::RedisServer;

use crate::fixture::{LONG, calls, client, granted, name, request};

/// Requests for locks whose names begin with `prefix`.
fn requests(prefix: &str, number: usize) -> Vec<AcquireRequest> {
    (0..number).map(|i| request(&format!("{prefix}{i}"), LONG)).collect()
}

async fn acquired(client: &RedisBackend, requests: &[AcquireRequest]) -> Vec<Result<AcquireOutcome, Error>> {
    join_all(requests.iter().map(|request| client.acquire(request))).await
}

fn leases(requests: &[AcquireRequest], answers: &[Result<AcquireOutcome, Error>]) -> Vec<Lease> {
    let lease = |(request, answer): (&AcquireRequest, &Result<AcquireOutcome, Error>)| match answer {
        Ok(AcquireOutcome::Granted(grant)) => request.lease(grant.token),
        answer => panic!("{}: {answer:?}", request.name),
    };
    requests.iter().zip(answers).map(lease).collect()
}

async fn released(client: &RedisBackend, leases: &[Lease]) -> Vec<Release> {
    let release = |lease| async move { client.release(lease, Duration::ZERO).await.unwrap() };
    join_all(leases.iter().map(release)).await
}

#[tokio::test]
async fn requests_made_at_once_share_two_calls() {
    let server = RedisServer::start();
    let client = client(server.addr());
    let mut counts = Vec::new();
    // The first round loads the scripts.
    for prefix in ["a", "b"] {
        let before = calls(&server, "evalsha");
        let requests = requests(prefix, 20);
        let leases = leases(&requests, &acquired(&client, &requests).await);
        counts.push(calls(&server, "evalsha") - before);
        assert!(released(&client, &leases).await.iter().all(|answer| *answer == Release::Released));
        for request in &requests {
            assert_eq!(client.inspect(&request.name).await.unwrap(), None);
        }
    }
    assert_eq!(counts[1], 2, "the first request is sent at once, and the others follow together");
}

#[tokio::test]
async fn each_request_of_a_shared_call_gets_the_answer_about_its_lock() {
    let server = RedisServer::start();
    let (client, other) = (client(server.addr()), client(server.addr()));
    let (held, crashed) = (request("held", LONG), request("crashed", LONG));
    let (held_lease, _) = granted(&other, &held).await;
    let (crashed_lease, _) = granted(&other, &crashed).await;
    server.command(&["DEL", "onelock:{crashed}"]);
    let names = ["first", "free", "held", "twice", "twice", "crashed", "last"];
    let requests = names.map(|name| request(name, LONG));
    let answers = acquired(&client, &requests).await;
    for (request, answer) in requests.iter().zip(&answers) {
        let version = client.inspect(&request.name).await.unwrap().unwrap().version.unwrap();
        match answer.as_ref().unwrap() {
            AcquireOutcome::Granted(grant) => {
                assert_eq!(version, request.id.to_string());
                let crashed = grant.crashed.as_ref().map(|holder| holder.token);
                assert_eq!(crashed, (request.name == crashed_lease.name).then_some(crashed_lease.token));
            }
            AcquireOutcome::Contended(holder) => {
                assert_eq!(holder.version.as_ref(), Some(&version));
                assert!(["held", "twice"].contains(&request.name.as_str()), "{}", request.name);
            }
        }
    }
    let granted = answers.iter().filter(|answer| matches!(answer, Ok(AcquireOutcome::Granted(_)))).count();
    assert_eq!(granted, 5);
    assert_eq!(client.inspect(&held.name).await.unwrap().unwrap().token, held_lease.token);
}

#[tokio::test]
async fn releases_made_at_once_end_only_their_own_locks() {
    let server = RedisServer::start();
    let client = client(server.addr());
    let all = requests("r", 6);
    let mut leases = leases(&all, &acquired(&client, &all).await);
    // Another holder has two of the locks by now.
    for lease in &mut leases[2..4] {
        lease.id = LeaseId::random();
    }
    let answers = released(&client, &leases).await;
    for (i, (answer, request)) in answers.iter().zip(&all).enumerate() {
        let is_ours = !(2..4).contains(&i);
        assert_eq!(*answer == Release::Released, is_ours, "{i}: {answer:?}");
        assert_eq!(client.inspect(&request.name).await.unwrap().is_none(), is_ours, "{i}");
    }
    for lease in &leases[2..4] {
        let mark = format!("onelock:{{{}}}:g:{}", lease.name.as_str(), lease.id);
        assert_eq!(server.command(&["EXISTS", &mark]).trim(), ":1", "a late acquire of the id must be refused");
    }
}

#[tokio::test]
async fn releases_made_at_once_wake_the_waiters_of_their_locks() {
    let server = RedisServer::start();
    let (client, waiter) = (client(server.addr()), client(server.addr()));
    let all = requests("w", 5);
    let leases = leases(&all, &acquired(&client, &all).await);
    let mut watches = Vec::new();
    for waited in [2, 4] {
        watches.push((waited, waiter.watch(&all[waited].name).await.unwrap().expect("Redis wakes")));
    }
    assert_eq!(released(&client, &leases).await, vec![Release::Released; 5]);
    for (waited, watch) in &mut watches {
        let woken = tokio::time::timeout(Duration::from_secs(60), watch.changed()).await;
        assert!(woken.is_ok(), "the waiter for {} was not woken", all[*waited].name);
    }
}

#[tokio::test]
async fn request_that_is_dropped_before_it_is_sent_takes_no_lock() {
    let server = RedisServer::start();
    let client = client(server.addr());
    for keeps_one in [true, false] {
        // Connects.
        assert_eq!(client.inspect(&name("first")).await.unwrap(), None);
        let [first, dropped, kept] = ["first", "dropped", "kept"].map(|name| request(name, LONG));
        let mut sent = client.acquire(&first);
        assert!((&mut sent).now_or_never().is_none());
        let mut gone = client.acquire(&dropped);
        assert!((&mut gone).now_or_never().is_none());
        let mut member = client.acquire(&kept);
        assert!((&mut member).now_or_never().is_none());
        drop(gone);
        if keeps_one {
            assert!(matches!(member.await.unwrap(), AcquireOutcome::Granted(_)));
        } else {
            drop(member);
        }
        assert!(matches!(sent.await.unwrap(), AcquireOutcome::Granted(_)));
        // The next batch.
        let next = requests("next", 3);
        let leases = leases(&next, &acquired(&client, &next).await);
        released(&client, &leases).await;
        assert_eq!(client.inspect(&dropped.name).await.unwrap(), None);
        assert_eq!(client.inspect(&kept.name).await.unwrap().is_some(), keeps_one);
        server.command(&["FLUSHALL"]);
    }
}

#[tokio::test]
async fn late_request_among_others_takes_no_lock() {
    let server = RedisServer::start();
    let client = client(server.addr());
    let some = requests("n", 4);
    let late = &some[2];
    // Its id was released by a request with a later stamp.
    let mark = format!("onelock:{{{}}}:g:{}", late.name.as_str(), late.id);
    server.command(&["SET", &mark, "9000000000000000", "PX", "600000"]);
    let answers = acquired(&client, &some).await;
    for (request, answer) in some.iter().zip(&answers) {
        assert_eq!(answer.is_err(), request.id == late.id, "{answer:?}");
        assert_eq!(client.inspect(&request.name).await.unwrap().is_none(), request.id == late.id);
    }
}

/// A client that may use only locks with these rules.
fn restricted(server: &RedisServer, rules: &[&str]) -> RedisBackend {
    server.command(&[&["ACL", "SETUSER", "app", "reset", "on", ">secret", "&*", "+@all"], rules].concat());
    let url = format!("redis://app:secret@127.0.0.1:{}", server.port());
    RedisBackend::new(RedisConfig::from_url(&url).unwrap()).unwrap()
}

/// Requests of which the user may not use the lock at [`ODD`].
fn with_an_odd_one() -> Vec<AcquireRequest> {
    let mut all = requests("ok", 4);
    all.insert(ODD, request("odd", LONG));
    all
}

const ODD: usize = 2;

#[tokio::test]
async fn lock_that_the_user_may_not_set_does_not_affect_the_others() {
    let server = RedisServer::start();
    // In turn: the user may not use the lock at all, and the script may not set it.
    for rules in [&["~onelock:{ok*"][..], &["~onelock:*", "-set", "(+set ~onelock:{ok*)"]] {
        let client = restricted(&server, rules);
        let mut all = with_an_odd_one();
        let mut answers = acquired(&client, &all).await;
        let error = answers.remove(ODD).unwrap_err();
        let alone = client.acquire(&all.remove(ODD)).await.unwrap_err();
        assert_eq!((error.kind(), error.is_ambiguous()), (alone.kind(), alone.is_ambiguous()));
        assert_eq!(error.to_string(), alone.to_string());
        let answers = released(&client, &leases(&all, &answers)).await;
        assert_eq!(answers, vec![Release::Released; 4]);
    }
}

#[tokio::test]
async fn lock_that_the_user_may_not_delete_does_not_affect_the_others() {
    let server = RedisServer::start();
    let all = with_an_odd_one();
    let leases = leases(&all, &acquired(&client(server.addr()), &all).await);
    for rules in [&["~onelock:{ok*"][..], &["~onelock:*", "-del", "(+del ~onelock:{ok*)"]] {
        let client = restricted(&server, rules);
        let release = |lease| client.release(lease, Duration::ZERO);
        let mut answers = join_all(leases.iter().map(release)).await;
        let error = answers.remove(ODD).unwrap_err();
        let alone = client.release(&leases[ODD], Duration::ZERO).await.unwrap_err();
        assert_eq!(error.to_string(), alone.to_string());
        for answer in answers {
            assert_eq!(answer.unwrap(), Release::Released);
        }
        // For the second rules.
        for request in all.iter().filter(|request| request.name != all[ODD].name) {
            granted(&client, request).await;
        }
    }
}

#[tokio::test]
async fn full_server_refuses_all_and_releases_all() {
    let server = RedisServer::start();
    let client = client(server.addr());
    let some = requests("full", 4);
    let leases = leases(&some, &acquired(&client, &some).await);
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    for answer in acquired(&client, &requests("more", 4)).await {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Full);
    }
    assert_eq!(released(&client, &leases).await, vec![Release::Released; 4]);
    assert_eq!(client.inspect(&name("full0")).await.unwrap(), None);
}
