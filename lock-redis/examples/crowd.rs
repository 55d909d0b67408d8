//! Measures what a crowd costs one Redis server that asks for one lock in one moment:
//! `cargo run --release -p lock-redis --example crowd -- CLIENTS SPREAD_MS MAXCLIENTS`.
//!
//! Each client takes a descriptor of this process and one of the server: raise `ulimit -n`.
//! Each client has a connection of its own, like a process. The server is new for each row, and
//! counts its commands, its processor time and its memory.

use std::{
    collections::BTreeMap,
    env,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use lock_core::{Error, Guard, Locker, TryAcquire};
use lock_redis::{RedisBackend, RedisConfig};
use test_support::redis::RedisServer;
use tokio::time::Instant;

const NAME: &str = "nightly-etl";
/// Long enough for each waiter to have its turn.
const WAIT: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    TryFree,
    TryHeld,
    /// Each acquires the lock, checks that it is alone, and releases it.
    Wait,
    /// The same, for tasks that share a connection and a place in the queue of the process.
    WaitInOneProcess,
}

#[tokio::main]
async fn main() {
    let numbers: Vec<u64> = env::args().skip(1).map(|text| text.parse().expect("a number")).collect();
    let (clients, spread, connections) = match numbers[..] {
        [clients, spread, connections] => (clients, Duration::from_millis(spread), connections),
        _ => (1_000, Duration::from_secs(5), 10_000),
    };
    println!("| what | spread | last answer | commands | scripts | µs each | server's processor | memory | answers |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for what in [What::TryFree, What::TryHeld, What::Wait, What::WaitInOneProcess] {
        for spread in [Duration::ZERO, spread] {
            measure(clients, what, spread, connections).await;
        }
    }
}

async fn measure(clients: u64, what: What, spread: Duration, connections: u64) {
    let start = move || RedisServer::with_args(&["--maxclients", &connections.to_string()]);
    let server = tokio::task::spawn_blocking(start).await.expect("it starts");
    let locker = || {
        let config = RedisConfig::from_url(&format!("redis://127.0.0.1:{}", server.port()));
        let backend = config.and_then(RedisBackend::new).expect("the settings are valid");
        Locker::builder(Arc::new(backend)).spread(spread).build().expect("the options fit")
    };
    let lockers: Vec<_> = match what {
        What::WaitInOneProcess => std::iter::repeat_n(locker(), usize::try_from(clients).expect("few")).collect(),
        _ => (0..clients).map(|_| locker()).collect(),
    };
    let _holder = match what {
        What::TryHeld => Some(locker().lock(NAME).spread(Duration::ZERO).acquire().await.expect("it is free")),
        _ => None,
    };
    server.command(&["CONFIG", "RESETSTAT"]);
    let processor = Processor::of(&server);
    let holders = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let tasks = lockers.into_iter().map(|locker| {
        let holders = Arc::clone(&holders);
        tokio::spawn(async move { ask(&locker, what, &holders).await })
    });
    let (mut answers, mut guards) = (BTreeMap::<String, u64>::new(), Vec::new());
    for outcome in join_all(tasks.collect::<Vec<_>>()).await {
        let answer = match outcome.expect("no panic") {
            Ok((answer, guard)) => {
                guards.extend(guard);
                answer.to_owned()
            }
            Err(error) => error.to_string(),
        };
        *answers.entry(answer).or_default() += 1;
    }
    let (elapsed, used) = (started.elapsed().as_secs_f64(), Processor::of(&server).since(&processor));
    let calls = Calls::of(&server);
    let memory = number(&server.command(&["INFO", "memory"]), "used_memory_peak:") / 1e6;
    println!(
        "| {what:?} | {spread:?} | {elapsed:.1} s | {} | {} | {:.0} | {used:.2} s | {memory:.0} MB | {answers:?} |",
        calls.all,
        calls.scripts,
        calls.micros / calls.scripts
    );
}

/// Asks for the lock once, and returns the answer, with the guard of a lock that stays held.
async fn ask(locker: &Locker, what: What, holders: &AtomicU64) -> Result<(&'static str, Option<Guard>), Error> {
    let outcome = match what {
        What::TryFree | What::TryHeld => locker.try_acquire(NAME).await?,
        What::Wait | What::WaitInOneProcess => locker.acquire_within(NAME, WAIT).await?,
    };
    let TryAcquire::Acquired(guard) = outcome else { return Ok(("contended", None)) };
    if what == What::TryFree {
        return Ok(("acquired", Some(guard)));
    }
    let alone = holders.fetch_add(1, Ordering::SeqCst) == 0;
    tokio::task::yield_now().await;
    holders.fetch_sub(1, Ordering::SeqCst);
    guard.release().await?;
    Ok((if alone { "acquired" } else { "NOT ALONE" }, None))
}

/// The seconds that the server has run.
struct Processor(f64);

impl Processor {
    fn of(server: &RedisServer) -> Self {
        let info = server.command(&["INFO", "cpu"]);
        Self(number(&info, "used_cpu_user:") + number(&info, "used_cpu_sys:"))
    }

    fn since(&self, before: &Self) -> f64 {
        self.0 - before.0
    }
}

/// The commands since the statistics were reset.
struct Calls {
    all: f64,
    scripts: f64,
    micros: f64,
}

impl Calls {
    fn of(server: &RedisServer) -> Self {
        let info = server.command(&["INFO", "commandstats"]);
        let mut calls = Self { all: 0.0, scripts: 0.0, micros: 0.0 };
        for line in info.lines().filter(|line| line.starts_with("cmdstat_")) {
            // Commands in scripts are counted too; clients send only these.
            let sent = ["evalsha", "eval:", "hello", "client", "subscribe", "ping", "select"];
            if !sent.iter().any(|command| line["cmdstat_".len()..].starts_with(command)) {
                continue;
            }
            let count = number(line, "calls=");
            calls.all += count;
            if line.starts_with("cmdstat_eval") {
                calls.scripts += count;
                calls.micros += number(line, "usec=");
            }
        }
        calls
    }
}

/// Returns the number after `label`.
fn number(text: &str, label: &str) -> f64 {
    let (_, rest) = text.split_once(label).unwrap_or_else(|| panic!("no {label} in {text}"));
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
    rest[..end].parse().expect("a number")
}
