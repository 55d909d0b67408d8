//! Measures the time from a release until a waiting process has the lock.

use std::{
    io::BufRead as _,
    time::{Duration, Instant},
};

use redis::aio::MultiplexedConnection;
use rslock::{Lock, LockManager};
use test_support::{monotonic_nanos, redis::RedisServer};
use tokio::runtime::Runtime;

use super::{TTL, connect, locker, raw::Listener, url};
use crate::{
    effort::Effort,
    flavor::Flavor,
    peers::Process,
    table::{Table, figure, median, micros, percentile},
};

const ROUNDS: usize = 150;
/// Fewer rounds for clients that poll, which take a thousand times as long.
const ROUNDS_OF_POLLERS: usize = 20;
/// Sleeps until the other process waits.
const UNTIL_IT_WAITS: Duration = Duration::from_millis(15);

/// The waiting process. Each line on its input begins a wait, and the answer is the time at which
/// the process acquired the lock.
pub(crate) fn wait(how: &str, port: u16, flavor: Flavor) {
    let runtime = flavor.runtime();
    let mut holder = runtime.block_on(Holder::new(how, port));
    for line in std::io::stdin().lock().lines() {
        line.expect("the parent writes");
        runtime.block_on(async {
            let held = holder.acquire().await;
            println!("{}", monotonic_nanos());
            holder.release(held).await;
        });
    }
}

/// The holder of the lock that is handed over, or the one that waits for it.
enum Holder {
    Raw(Box<Listener>),
    Onelock(lock_core::Locker),
    Rslock(LockManager),
    Peer(Process),
}

enum Held {
    Onelock(lock_core::Guard),
    Rslock(Lock),
    /// The holder knows it.
    Known,
}

impl Holder {
    async fn new(how: &str, port: u16) -> Self {
        match how {
            "raw" => Self::Raw(Box::new(Listener::new(port, "raw").await)),
            "onelock" => Self::Onelock(locker(port)),
            "rslock" => Self::Rslock(LockManager::new(vec![url(port)])),
            other => panic!("unknown way to lock {other}"),
        }
    }

    async fn acquire(&mut self) -> Held {
        match self {
            Self::Onelock(locker) => Held::Onelock(locker.acquire("onelock").await.expect("it becomes free")),
            Self::Raw(listener) => {
                listener.acquire().await;
                Held::Known
            }
            Self::Rslock(manager) => loop {
                // rslock gives up after three attempts.
                if let Ok(lock) = manager.lock("rslock", TTL).await {
                    return Held::Rslock(lock);
                }
            },
            Self::Peer(process) => {
                assert_eq!(process.ask("hold"), "held");
                Held::Known
            }
        }
    }

    /// Returns the time just before the release.
    async fn release(&mut self, held: Held) -> i64 {
        let before = monotonic_nanos();
        match (self, held) {
            (_, Held::Onelock(guard)) => drop(guard.release().await.expect("it is held")),
            (Self::Rslock(manager), Held::Rslock(lock)) => manager.unlock(&lock).await,
            (Self::Raw(listener), Held::Known) => listener.release().await,
            (Self::Peer(process), Held::Known) => {
                process.tell("release");
                return process.nanos();
            }
            _ => unreachable!("each holder releases what it acquired"),
        }
        before
    }
}

fn once(runtime: &Runtime, holder: &mut Holder, waiter: &mut Process) -> f64 {
    let held = runtime.block_on(holder.acquire());
    waiter.tell("wait");
    // Renewals of the holder continue meanwhile.
    runtime.block_on(async { tokio::time::sleep(UNTIL_IT_WAITS).await });
    let released = runtime.block_on(holder.release(held));
    (waiter.nanos() - released) as f64 / 1e3
}

fn round_trip(runtime: &Runtime, connection: &mut MultiplexedConnection) -> f64 {
    // Pauses as long as for the waiter, because a sleeping processor takes time to wake.
    runtime.block_on(async { tokio::time::sleep(UNTIL_IT_WAITS).await });
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
        (runtime.block_on(Holder::new(how, port)), Process::own(["wait", "redis", how, &place, flavor.name()]))
    };
    let python = |library: &str| (Holder::Peer(Process::python(library, &place)), Process::python(library, &place));
    let mut connection = runtime.block_on(connect(port));
    let mut by_message =
        [("raw", own("raw")), ("onelock", own("onelock")), ("python-redis-lock", python("python-redis-lock"))];
    let (mut trips, mut times) = (Vec::new(), [const { Vec::new() }; 3]);
    for _ in 0..effort.rounds(ROUNDS) {
        trips.push(round_trip(&runtime, &mut connection));
        for ((_, (holder, waiter)), times) in by_message.iter_mut().zip(&mut times) {
            times.push(once(&runtime, holder, waiter));
        }
    }
    let mut all: Vec<_> = by_message.iter().map(|(name, _)| *name).zip(times).collect();
    let redlock = (Holder::Peer(Process::redlock(port)), Process::redlock(port));
    for (name, (mut holder, mut waiter)) in
        [("rslock", own("rslock")), ("redis-py", python("redis-py")), ("node redlock", redlock)]
    {
        let rounds = effort.rounds(ROUNDS_OF_POLLERS);
        all.push((name, (0..rounds).map(|_| once(&runtime, &mut holder, &mut waiter)).collect()));
    }
    let trip = median(&trips);
    let mut table =
        Table::new(format!("Redis hand-off, {}", flavor.name()), &["median, µs", "99th percentile, µs", "round trips"]);
    for (name, times) in [("one round trip", trips)].into_iter().chain(all) {
        let middle = median(&times);
        table.row(name, [middle, percentile(&times, 99), middle / trip].map(figure));
    }
    table
}
