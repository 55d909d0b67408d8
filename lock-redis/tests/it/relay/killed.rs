//! A process that is killed while the request with which one of its tasks releases and another one
//! acquires is on its way.

use std::{net::SocketAddr, process::Command, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use lock_core::{FencingToken, Guard, Locker, Renew, backend::Admin as _};
use lock_redis::RedisBackend;
use test_support::{
    Direction::{self, Replies, Requests},
    fork::wait_for_the_end_of_input,
    lost_messages::Network as _,
    process::Process,
    redis::command,
    until,
};

use super::{TTL, load};
use crate::fixture::{Fixture, JOB, LONG, at, locker, name, refused, request};

/// The address of the store, for a process that a test has started.
const STORE: &str = "ONELOCK_TEST_RELAY_STORE";
/// The owner of the locks of that process.
const KILLED: &str = "to be killed";
/// The ttl of its task that acquires. Its other task has [`LONG`].
const SHORT: Duration = Duration::from_secs(2);
/// The most that a wait for the end of [`SHORT`] takes on a busy machine. Only a lock that ends
/// later takes longer.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

const HOLDS: &str = "has the lock";
const GOES_ON: &str = "has an answer";

/// A process that holds the lock, for which another one of its tasks waits.
struct Tasks {
    fixture: Fixture,
    process: Process,
    token: Option<FencingToken>,
}

impl Tasks {
    /// Runs `test`, which calls this, once more in a process of its own. There it returns `None`
    /// after the work of that process.
    async fn start(test: &str) -> Option<Self> {
        if let Ok(store) = std::env::var(STORE) {
            work(store.parse().unwrap()).await;
            return None;
        }
        let fixture = Fixture::standalone().await;
        load(&fixture).await;
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args([test, "--exact", "--nocapture"]).env(STORE, fixture.proxies[0].addr().to_string());
        let process = Process::start_with_input(&mut again);
        until("the process to hold the lock", async || process.says(HOLDS)).await;
        let holder = fixture.direct.inspect(&name(JOB)).await.unwrap().expect("held");
        assert_eq!(holder.owner.as_deref(), Some(KILLED));
        Some(Self { fixture, process, token: holder.token })
    }

    /// Lets the process send its request, and kills it while the request or its reply is held back.
    async fn die_in_flight(&mut self, held: Direction) {
        let proxy = &self.fixture.proxies[0];
        let before = proxy.bytes(held);
        proxy.hold(held);
        self.process.close_input();
        until("the request or its reply to be on its way", async || proxy.bytes(held) > before).await;
        self.process.kill();
        assert!(!self.process.says(GOES_ON), "{:?}", self.process.lines());
    }

    fn other_process(&self) -> Locker {
        locker(self.fixture.direct.clone(), TTL)
    }

    /// Checks that `guard` of another process is the only holder.
    async fn is_followed_by(&self, guard: Guard) {
        guard.check().unwrap();
        assert!(guard.token() > self.token, "{:?} after {:?}", guard.token(), self.token);
        let holder = self.fixture.direct.inspect(guard.name()).await.unwrap().expect("held");
        assert_eq!((holder.token, holder.count()), (guard.token(), 1));
        refused(&self.fixture.direct, &request(JOB, LONG)).await;
        guard.release().await.unwrap();
        assert!(self.fixture.is_free().await);
    }
}

/// Holds the lock until the input ends, and then releases it for another task of this process.
async fn work(store: SocketAddr) {
    // Its requests are awaited until it is killed, and none is repeated.
    let backend = RedisBackend::new(at(store).timeout(LONG)).unwrap();
    let builder = Locker::builder(Arc::new(backend)).ttl(LONG).renew(Renew::Manual).owner(KILLED);
    let locker = builder.build().unwrap();
    let guard = locker.acquire(JOB).await.unwrap();
    let mut waiter = Box::pin(locker.lock(JOB).ttl(SHORT).acquire());
    assert!((&mut waiter).now_or_never().is_none(), "the lock is held");
    println!("\n{HOLDS}");
    tokio::task::spawn_blocking(wait_for_the_end_of_input).await.unwrap();
    let (released, next) = tokio::join!(guard.release(), waiter);
    println!("\n{GOES_ON}: {released:?}, {next:?}");
}

#[tokio::test]
// verifies: P9, late-request
async fn a_request_of_a_killed_process_ends_with_its_ttl() {
    for held in [Requests, Replies] {
        let test = "relay::killed::a_request_of_a_killed_process_ends_with_its_ttl";
        let Some(mut tasks) = Tasks::start(test).await else { return };
        tasks.die_in_flight(held).await;
        if held == Requests {
            let holder = refused(&tasks.fixture.direct, &request(JOB, LONG)).await;
            assert_eq!(holder.token, tasks.token, "it has not released yet");
            tasks.fixture.let_arrive(1).await;
        }
        let next = tokio::time::timeout(ENDS_WITHIN, tasks.other_process().acquire(JOB)).await;
        let next = next.expect("the ttl of the killed task has ended").unwrap();
        let crashed = next.crashed_holder().expect("its request acquired");
        assert_eq!(crashed.owner.as_deref(), Some(KILLED));
        assert!(tasks.token < crashed.token && crashed.token < next.token(), "{held:?}: {crashed}");
        tasks.fixture.heal();
        tasks.is_followed_by(next).await;
    }
}

#[tokio::test]
// verifies: P9, late-request
async fn a_request_of_a_killed_process_leaves_a_waiter_the_lock() {
    for held in [Requests, Replies] {
        let test = "relay::killed::a_request_of_a_killed_process_leaves_a_waiter_the_lock";
        let Some(mut tasks) = Tasks::start(test).await else { return };
        let other = tasks.other_process();
        let waiter = tokio::spawn(async move { other.acquire(JOB).await.unwrap() });
        let waiters = || command(tasks.fixture.ports[0], &["ZCARD", &format!("onelock:{{{JOB}}}:w")]).unwrap();
        until("the other process to wait", async || waiters() == ":1\r\n").await;
        tasks.die_in_flight(held).await;
        if held == Requests {
            assert!(!waiter.is_finished(), "the killed process has not released yet");
            tasks.fixture.heal();
        }
        let next = tokio::time::timeout(ENDS_WITHIN, waiter).await.expect("the release wakes it").unwrap();
        assert_eq!(next.crashed_holder(), None, "{held:?}: the killed task came first");
        tasks.fixture.heal();
        tasks.is_followed_by(next).await;
    }
}
