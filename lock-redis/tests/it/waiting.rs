//! Many processes that wait for one lock.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use lock_core::backend::Release;
use test_support::{redis::RedisServer, until};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::fixture::{calls, client, locker, queued};

const NAME: &str = "job";
const TTL: Duration = Duration::from_secs(30);

/// A process that waits for the lock once it is told to.
struct Waiter {
    child: Child,
    stdin: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Waiter {
    fn start(server: &RedisServer) -> Self {
        Self::start_with(server, &[])
    }

    /// A process that waits first come, first served, with a ttl in seconds.
    fn fair(server: &RedisServer, ttl: &str) -> Self {
        Self::start_with(server, &[ttl])
    }

    fn start_with(server: &RedisServer, more: &[&str]) -> Self {
        let test = std::env::current_exe().unwrap();
        let program = test.ancestors().nth(2).unwrap().join("examples/waiter");
        let mut child = Command::new(&program)
            .args([&format!("redis://127.0.0.1:{}", server.port()), NAME])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; cargo builds it with the tests", program.display()));
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { stdin: child.stdin.take().unwrap(), answers, child }
    }

    async fn wait(&mut self) {
        self.stdin.write_all(b"\n").await.unwrap();
    }

    async fn answer(&mut self) -> String {
        let line = tokio::time::timeout(Duration::from_secs(120), self.answers.next_line()).await;
        line.expect("the waiter answers").unwrap().expect("the waiter lives")
    }

    /// The token of the lock that it waited for.
    async fn token(&mut self) -> u64 {
        loop {
            if let Some((_, token)) = self.answer().await.split_once(' ') {
                return token.parse().unwrap();
            }
        }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

/// Lets `count` processes wait for one lock and hand it on until each has held it. Returns the
/// requests per hand-off.
async fn requests_per_hand_off(count: u32) -> f64 {
    let server = RedisServer::start();
    let first = locker(client(server.addr()), TTL).lock(NAME).acquire().await.unwrap();
    let mut waiters: Vec<_> = (0..count).map(|_| Waiter::start(&server)).collect();
    for waiter in &mut waiters {
        waiter.wait().await;
    }
    until("all to queue", async || queued(&server, NAME) == count).await;
    let (before, start) = (calls(&server, "eval"), Instant::now());
    let mut tokens = vec![first.token().unwrap().get()];
    assert_eq!(first.release().await.unwrap(), Release::Released);
    for waiter in &mut waiters {
        tokens.push(waiter.token().await);
    }
    // The last release follows the last token.
    until("the last release", async || server.command(&["EXISTS", &format!("onelock:{{{NAME}}}")]) == ":0\r\n").await;
    let requests = calls(&server, "eval") - before;
    println!("{count} processes: {requests} requests, {:?} for each hand-off", start.elapsed() / count);
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), count as usize + 1, "each had the lock once");
    f64::from(u32::try_from(requests).unwrap()) / f64::from(count)
}

#[tokio::test]
async fn requests_per_hand_off_do_not_grow_with_waiters() {
    for count in [2, 16, 64] {
        let each = requests_per_hand_off(count).await;
        // One request to release and one to acquire. On a slow machine each process also polls a
        // few times. If each release woke all processes, 64 processes would need 33.
        assert!((2.0..=12.0).contains(&each), "{each} requests for each hand-off among {count}");
    }
}

#[tokio::test]
async fn an_unused_wake_up_does_not_block_the_next_waiter() {
    let server = RedisServer::start();
    // A waiter without a wake-up retries when the holder's lease expires, at the latest.
    let held = locker(client(server.addr()), Duration::from_secs(4)).lock(NAME).acquire().await.unwrap();
    let mut frozen = Waiter::start(&server);
    frozen.wait().await;
    until("the first to queue", async || queued(&server, NAME) == 1).await;
    let mut next = Waiter::start(&server);
    next.wait().await;
    until("the next to queue", async || queued(&server, NAME) == 2).await;
    frozen.signal("-STOP");
    let token = held.token().unwrap().get();
    // The frozen process is still connected, so Redis wakes no other process.
    assert_eq!(held.release().await.unwrap(), Release::Released);
    let taken = next.token().await;
    assert!(taken > token);
    frozen.signal("-CONT");
    assert!(frozen.token().await > taken);
}

/// How many fair requests have a place.
fn places(server: &RedisServer) -> u32 {
    let reply = server.command(&["ZCARD", &format!("onelock:{{{NAME}}}:q")]);
    reply.trim().trim_start_matches(':').parse().unwrap()
}

#[tokio::test]
// verifies: P12, contention
async fn fair_processes_are_served_in_the_order_of_arrival() {
    let server = RedisServer::start();
    let held = locker(client(server.addr()), TTL).lock(NAME).acquire().await.unwrap();
    let mut unfair = Waiter::start(&server);
    unfair.wait().await;
    until("the process without a place to queue", async || queued(&server, NAME) == 1).await;
    let mut waiters = Vec::new();
    for place in 1..=8 {
        let mut waiter = Waiter::fair(&server, "30");
        waiter.wait().await;
        until("the process to take its place", async || places(&server) == place).await;
        waiters.push(waiter);
    }
    let before = calls(&server, "eval");
    let mut last = held.token().unwrap().get();
    assert_eq!(held.release().await.unwrap(), Release::Released);
    // Tokens rise, so they tell the order.
    for waiter in waiters.iter_mut().chain([&mut unfair]) {
        let token = waiter.token().await;
        assert!(token > last, "{token} after {last}");
        last = token;
    }
    let each = f64::from(u32::try_from(calls(&server, "eval") - before).unwrap()) / 9.0;
    println!("{each} requests for each hand-off");
    assert!(each <= 12.0, "{each} requests for each hand-off");
}

#[tokio::test]
// verifies: P9, P12
async fn a_killed_fair_process_is_skipped_after_its_ttl() {
    let server = RedisServer::start();
    let held = locker(client(server.addr()), TTL).lock(NAME).acquire().await.unwrap();
    let mut killed = Waiter::fair(&server, "2");
    killed.wait().await;
    until("the first to take its place", async || places(&server) == 1).await;
    let mut next = Waiter::fair(&server, "2");
    next.wait().await;
    until("the next to take its place", async || places(&server) == 2).await;
    killed.signal("-KILL");
    killed.child.wait().await.unwrap();
    let token = held.token().unwrap().get();
    assert_eq!(held.release().await.unwrap(), Release::Released);
    assert!(next.token().await > token);
    until("the last release", async || server.command(&["EXISTS", &format!("onelock:{{{NAME}}}")]) == ":0\r\n").await;
    assert_eq!(places(&server), 0, "the place of the killed process is cleared away");
}
