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
        let test = std::env::current_exe().unwrap();
        let program = test.ancestors().nth(2).unwrap().join("examples/waiter");
        let mut child = Command::new(&program)
            .args([&format!("redis://127.0.0.1:{}", server.port()), NAME])
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
