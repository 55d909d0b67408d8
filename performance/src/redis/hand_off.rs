//! Measures the time from a release until a waiting process has the lock on Redis.

use std::time::Instant;

use lock_core::{Guard, Locker, Mode};
use redis::aio::MultiplexedConnection;
use rslock::LockManager;
use test_support::redis::RedisServer;
use tokio::runtime::Runtime;

use super::{TTL, connect, locker, raw::Listener, url};
use crate::{
    effort::Effort,
    flavor::Flavor,
    hand_off::{self, Lock, Pair, ROUNDS},
    peers::Process,
    table::{Table, figure, median, micros, percentile},
};

/// Fewer rounds for clients that poll, which take a thousand times as long.
const ROUNDS_OF_POLLERS: usize = 20;

enum RedisLock {
    Raw(Box<Listener>),
    Onelock(Locker),
    Rslock(LockManager),
}

enum Held {
    Raw,
    Onelock(Guard),
    Rslock(rslock::Lock),
}

/// The waiting process.
pub(crate) fn wait(how: &str, port: u16, flavor: Flavor) {
    let runtime = flavor.runtime();
    let lock = runtime.block_on(RedisLock::new(how, port));
    hand_off::wait(&runtime, lock);
}

impl RedisLock {
    async fn new(how: &str, port: u16) -> Self {
        match how {
            "raw" => Self::Raw(Box::new(Listener::new(port, "raw").await)),
            "onelock" => Self::Onelock(locker(port, Mode::Exclusive)),
            "rslock" => Self::Rslock(LockManager::new(vec![url(port)])),
            other => panic!("unknown way to lock {other}"),
        }
    }
}

impl Lock for RedisLock {
    type Held = Held;

    async fn acquire(&mut self) -> Held {
        match self {
            Self::Onelock(locker) => Held::Onelock(locker.acquire("onelock").await.expect("it becomes free")),
            Self::Raw(listener) => {
                listener.acquire().await;
                Held::Raw
            }
            Self::Rslock(manager) => loop {
                // rslock gives up after three attempts.
                if let Ok(lock) = manager.lock("rslock", TTL).await {
                    return Held::Rslock(lock);
                }
            },
        }
    }

    async fn release(&mut self, held: Held) {
        match (self, held) {
            (_, Held::Onelock(guard)) => drop(guard.release().await.expect("it is held")),
            (Self::Rslock(manager), Held::Rslock(lock)) => manager.unlock(&lock).await,
            (Self::Raw(listener), Held::Raw) => listener.release().await,
            _ => unreachable!("each lock releases what it acquired"),
        }
    }
}

fn round_trip(runtime: &Runtime, connection: &mut MultiplexedConnection) -> f64 {
    // As for a waiter, because a sleeping processor takes time to wake.
    hand_off::pause(runtime);
    let start = Instant::now();
    runtime.block_on(redis::cmd("PING").exec_async(connection)).expect("the server answers");
    micros(start.elapsed())
}

pub(crate) fn run(effort: Effort) -> Vec<Table> {
    Flavor::ALL.map(|flavor| on(flavor, effort)).into()
}

fn on(flavor: Flavor, effort: Effort) -> Table {
    let server = RedisServer::start();
    let (runtime, port) = (flavor.runtime(), server.port());
    let place = port.to_string();
    let own = |how: &str| {
        let lock = runtime.block_on(RedisLock::new(how, port));
        Pair::new(lock, Process::own(["wait", "redis", how, &place, flavor.name()]))
    };
    let python = |library: &str| Pair::of_peers(|| Process::python(library, &place));
    let mut connection = runtime.block_on(connect(port));
    let mut by_message =
        [("raw", own("raw")), ("onelock", own("onelock")), ("python-redis-lock", python("python-redis-lock"))];
    let (mut trips, mut times) = (Vec::new(), [const { Vec::new() }; 3]);
    for _ in 0..effort.rounds(ROUNDS) {
        trips.push(round_trip(&runtime, &mut connection));
        for ((_, pair), times) in by_message.iter_mut().zip(&mut times) {
            times.push(pair.once(&runtime));
        }
    }
    let mut all: Vec<_> = by_message.iter().map(|(name, _)| *name).zip(times).collect();
    let redlock = Pair::of_peers(|| Process::redlock(port));
    for (name, mut pair) in [("rslock", own("rslock")), ("redis-py", python("redis-py")), ("node redlock", redlock)] {
        all.push((name, (0..effort.rounds(ROUNDS_OF_POLLERS)).map(|_| pair.once(&runtime)).collect()));
    }
    let trip = median(&trips);
    let columns = ["median, µs", "99th percentile, µs", "round trips"];
    let mut table = Table::new(format!("Redis hand-off, {}", flavor.name()), &columns);
    for (name, times) in [("one round trip", trips)].into_iter().chain(all) {
        let middle = median(&times);
        table.row(name, [middle, percentile(&times, 99), middle / trip].map(figure));
    }
    table
}
