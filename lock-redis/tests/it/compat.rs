//! Real foreign clients from PyPI, in both directions, and what they leave at a key.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use lock_core::backend::{AcquireOutcome, Admin, Backend, Break, Release};
use lock_redis::{Compat, RedisBackend};
use test_support::{Proxy, redis::RedisServer, until};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::fixture::{self, LONG, at, granted, locker, name, refused, request};

const PATIENCE: Duration = Duration::from_secs(20);

/// A Python process that holds foreign locks and does what it is told, line by line.
struct Python {
    _child: Child,
    stdin: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

const SCRIPT: &str = r#"
import sys, redis, redis_lock
client = redis.Redis(port=int(sys.argv[1]))
make = {
    "redis-py": lambda: client.lock("job", timeout=600),
    "redis-py-without-ttl": lambda: client.lock("job"),
    "python-redis-lock": lambda: redis_lock.Lock(client, "job", expire=600),
}[sys.argv[2]]
lock = make()
for line in sys.stdin:
    word = line.strip()
    if word == "try":
        print("had" if lock.acquire(blocking=False) else "held", flush=True)
    elif word == "wait":
        print("had" if lock.acquire() else "held", flush=True)
    elif word == "release":
        lock.release()
        print("released", flush=True)
"#;

impl Python {
    fn start(server: &RedisServer, client: &str) -> Self {
        let mut child = Command::new(test_support::python::python())
            .args(["-c", SCRIPT, &server.port().to_string(), client])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the Python of the tests starts");
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { stdin: child.stdin.take().unwrap(), answers, _child: child }
    }

    async fn tell(&mut self, word: &str) {
        self.stdin.write_all(format!("{word}\n").as_bytes()).await.unwrap();
    }

    async fn answer(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.answers.next_line()).await.expect("python answers").unwrap();
        line.expect("python still runs")
    }

    async fn ask(&mut self, word: &str) -> String {
        self.tell(word).await;
        self.answer().await
    }
}

fn client_like(server: &RedisServer, compat: Compat) -> RedisBackend {
    RedisBackend::new(at(server.addr()).compat(compat)).unwrap()
}

async fn exclusion_in_both_directions(compat: Compat, client: &str) {
    let server = RedisServer::start();
    let (ours, mut theirs) = (client_like(&server, compat), Python::start(&server, client));
    let (lease, _) = granted(&ours, &request("job", LONG)).await;
    assert_eq!(theirs.ask("try").await, "held");
    assert_eq!(ours.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    assert_eq!(theirs.ask("try").await, "had");
    let holder = refused(&ours, &request("job", LONG)).await;
    assert_eq!(holder.foreign.as_deref(), Some("a foreign Redis client"));
    assert!(holder.expires_in.is_some_and(|left| left > LONG / 2 && left <= LONG), "{holder}");
    let other = request("job", LONG).lease(None);
    let released = ours.release(&other, Duration::ZERO).await.unwrap();
    assert!(matches!(released, Release::NotHeld(Some(_))), "a foreign lock is not released");
    assert_eq!(theirs.ask("release").await, "released");
    let (next, _) = granted(&ours, &request("job", LONG)).await;
    assert!(next.token > lease.token);
}

async fn wake_up_in_both_directions(compat: Compat, client: &str) {
    let server = RedisServer::start();
    let mut theirs = Python::start(&server, client);
    let locker = locker(client_like(&server, compat), LONG);
    let guard = locker.lock("job").acquire().await.unwrap();
    let before = fixture::calls(&server, "set");
    theirs.tell("wait").await;
    until("them to wait", async || fixture::calls(&server, "set") > before).await;
    let start = Instant::now();
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    assert_eq!(theirs.answer().await, "had");
    println!("{client} was woken after {:?}", start.elapsed());
    let tried = fixture::calls(&server, "mget") + 1;
    let waiting = tokio::spawn(async move { locker.lock("job").acquire().await.unwrap() });
    until("us to wait", async || fixture::calls(&server, "mget") > tried).await;
    let start = Instant::now();
    assert_eq!(theirs.ask("release").await, "released");
    let guard = tokio::time::timeout(PATIENCE, waiting).await.expect("we are woken").unwrap();
    println!("we were woken after {:?} by {client}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(20), "not woken, but back by itself: {:?}", start.elapsed());
    assert_eq!(guard.release().await.unwrap(), Release::Released);
}

#[tokio::test]
// verifies: foreign-client
async fn redis_py_and_we_exclude_each_other() {
    exclusion_in_both_directions(Compat::RedisPy, "redis-py").await;
}

#[tokio::test]
// verifies: foreign-client
async fn python_redis_lock_and_we_exclude_each_other() {
    exclusion_in_both_directions(Compat::PythonRedisLock, "python-redis-lock").await;
}

#[tokio::test]
async fn redis_py_and_we_wake_each_other() {
    wake_up_in_both_directions(Compat::RedisPy, "redis-py").await;
}

#[tokio::test]
async fn python_redis_lock_and_we_wake_each_other() {
    wake_up_in_both_directions(Compat::PythonRedisLock, "python-redis-lock").await;
}

#[tokio::test]
async fn a_python_redis_lock_waiter_blocks_again_after_a_cut() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.addr()).await;
    let holder = client_like(&server, Compat::PythonRedisLock);
    let (lease, _) = granted(&holder, &request("job", LONG)).await;
    let waiter = RedisBackend::new(at(proxy.addr()).compat(Compat::PythonRedisLock)).unwrap();
    let mut watch = waiter.watch(&name("job")).await.unwrap().expect("python-redis-lock wakes");
    let blocked = |count: u32| {
        let line = format!("blocked_clients:{count}\r\n");
        let server = &server;
        async move || server.command(&["INFO", "clients"]).contains(&line)
    };
    until("the waiter to block", blocked(1)).await;
    // Longer than the timeout of other requests.
    let heard = tokio::time::timeout(Duration::from_millis(700), watch.changed()).await;
    assert!(heard.is_err(), "no signal was sent");
    proxy.refuse();
    proxy.cut();
    tokio::time::timeout(PATIENCE, watch.changed()).await.expect("a signal may be lost: the waiter looks");
    until("the old connection to end", blocked(0)).await;
    let before = proxy.connections();
    tokio::select! {
        () = watch.changed() => panic!("no signal can arrive while no server answers"),
        () = until("the attempt to connect", async || proxy.connections() > before) => {}
    }
    proxy.heal();
    let waiting = tokio::spawn(async move {
        watch.changed().await;
        watch
    });
    until("the waiter to block again", blocked(1)).await;
    // As a waiter has done before.
    refused(&waiter, &request("job", LONG)).await;
    assert_eq!(holder.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    let watch = tokio::time::timeout(PATIENCE, waiting).await.expect("it is woken").unwrap();
    // The waiter consumed the only signal.
    assert_eq!(server.command(&["EXISTS", "lock-signal:job"]), ":0\r\n");
    drop(watch);
    until("the unused signal to be passed on", async || server.command(&["EXISTS", "lock-signal:job"]) == ":1\r\n")
        .await;
}

#[tokio::test]
async fn a_break_wakes_waiters_of_python_redis_lock() {
    let server = RedisServer::start();
    let ours = client_like(&server, Compat::PythonRedisLock);
    let (lease, _) = granted(&ours, &request("job", LONG)).await;
    let mut theirs = Python::start(&server, "python-redis-lock");
    theirs.tell("wait").await;
    until("them to block", async || server.command(&["INFO", "clients"]).contains("blocked_clients:1\r\n")).await;
    assert_eq!(ours.break_lock(&lease.name, &lease.id.to_string(), "test").await.unwrap(), Break::Broken);
    assert_eq!(tokio::time::timeout(PATIENCE, theirs.answer()).await.expect("they are woken"), "had");
}

#[tokio::test]
async fn releases_leave_one_short_lived_signal() {
    let server = RedisServer::start();
    let ours = client_like(&server, Compat::PythonRedisLock);
    for _ in 0..2 {
        let (lease, _) = granted(&ours, &request("job", LONG)).await;
        assert_eq!(ours.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    }
    // A second signal would wake a second waiter for one lock.
    assert_ne!(server.command(&["LLEN", "lock-signal:job"]), ":2\r\n");
    let gone = async || server.command(&["EXISTS", "lock-signal:job"]) == ":0\r\n";
    until("the unused signal to expire", gone).await;
}

#[tokio::test]
async fn a_foreign_lock_without_a_ttl_is_reported_as_never_expiring() {
    let server = RedisServer::start();
    let (ours, mut theirs) = (client_like(&server, Compat::RedisPy), Python::start(&server, "redis-py-without-ttl"));
    assert_eq!(theirs.ask("try").await, "had");
    let holder = refused(&ours, &request("job", LONG)).await;
    assert_eq!(holder.foreign.as_deref(), Some("a foreign Redis client whose key never expires"));
    assert_eq!((holder.expires_in, holder.version), (None, None));
    // Any key may have any value there, so only records of onelock are listed.
    let (other, _) = granted(&ours, &request("other", LONG)).await;
    let listed: Vec<_> = ours.list("").await.unwrap().locks.into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, [other.name]);
    assert_eq!(theirs.ask("release").await, "released");
}

#[tokio::test]
// verifies: foreign-client
async fn a_key_of_another_type_is_a_foreign_lock_and_is_never_touched() {
    let server = RedisServer::start();
    let ours = client_like(&server, Compat::RedisPy);
    for make in
        [&["HSET", "job", "uuid:1", "1"][..], &["LPUSH", "job", "x"], &["SADD", "job", "x"], &["ZADD", "job", "1", "x"]]
    {
        server.command(&["DEL", "job"]);
        server.command(make);
        let request = request("job", LONG);
        let holder = refused(&ours, &request).await;
        assert!(holder.foreign.as_deref().is_some_and(|kind| kind.ends_with("whose key never expires")), "{holder:?}");
        let lease = request.lease(None);
        assert!(matches!(ours.release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(Some(_))));
        assert!(matches!(ours.renew(&lease).await.unwrap(), lock_core::backend::Renewal::Lost(_)));
        let broken = ours.break_lock(&name("job"), &request.id.to_string(), "test").await.unwrap();
        assert!(matches!(broken, Break::Changed(Some(_))));
        assert!(matches!(ours.acquire(&request).await.unwrap(), AcquireOutcome::Contended(_)));
        assert_eq!(server.command(&["EXISTS", "job"]), ":1\r\n");
    }
}
