//! Measures the time from a release until a waiting process has the lock, in round trips.

use std::{
    io::BufRead as _,
    process::Command,
    time::{Duration, Instant},
};

use redis::aio::MultiplexedConnection;
use rslock::{Lock, LockManager};
use test_support::{monotonic_nanos, redis::RedisServer};
use tokio::runtime::Runtime;

use super::{TTL, connect, locker, median, micros, python::Process, runtime, url};

const ROUNDS: usize = 200;
/// Releases without a library, and wakes the subscribers.
const DELETE_AND_WAKE: &str = "redis.call('DEL', KEYS[1]) redis.call('PUBLISH', 'raw:free', '1') return 1";
/// Fewer rounds for clients that poll, which take a thousand times as long.
const ROUNDS_OF_POLLERS: usize = 20;

/// The waiting process. Each line on its input begins a wait, and the answer is the time at which
/// the process acquired the lock.
pub(crate) fn wait(how: &str, port: u16) {
    let runtime = runtime();
    let (locker, rslock) = (locker(port), LockManager::new(vec![url(port)]));
    let mut raw = runtime.block_on(Listener::new(port));
    for line in std::io::stdin().lock().lines() {
        line.expect("the parent writes");
        runtime.block_on(async {
            if how == "onelock" {
                let guard = locker.acquire("onelock").await.expect("it becomes free");
                println!("{}", monotonic_nanos());
                let _ = guard.release().await.expect("it is held");
            } else if how == "raw" {
                raw.acquire().await;
                println!("{}", monotonic_nanos());
                redis::cmd("DEL").arg("raw").exec_async(&mut raw.connection).await.expect("the server answers");
            } else {
                let lock = loop {
                    // rslock gives up after three attempts.
                    if let Ok(lock) = rslock.lock("rslock", TTL).await {
                        break lock;
                    }
                };
                println!("{}", monotonic_nanos());
                rslock.unlock(&lock).await;
            }
        });
    }
}

/// The minimum for a process that waits without polling: a connection that receives releases.
struct Listener {
    connection: MultiplexedConnection,
    pushes: tokio::sync::mpsc::UnboundedReceiver<redis::PushInfo>,
}

impl Listener {
    async fn new(port: u16) -> Self {
        let (sender, pushes) = tokio::sync::mpsc::unbounded_channel();
        let client = redis::Client::open(format!("{}/?protocol=resp3", url(port))).expect("a URL");
        let config = redis::AsyncConnectionConfig::new().set_push_sender(sender);
        let connected = client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = connected.expect("the server answers");
        connection.subscribe("raw:free").await.expect("the server answers");
        Self { connection, pushes }
    }

    async fn acquire(&mut self) {
        loop {
            let mut set = redis::cmd("SET");
            set.arg("raw").arg("waiter").arg("NX").arg("PX").arg(30_000);
            let answer: redis::Value = set.query_async(&mut self.connection).await.expect("the server answers");
            if answer == redis::Value::Okay {
                return;
            }
            let _ = self.pushes.recv().await.expect("the connection lives");
        }
    }
}

/// The holder of the lock that is handed over.
enum Holder {
    Raw(MultiplexedConnection, redis::Script),
    Onelock(lock_core::Locker),
    Rslock(LockManager),
    /// A plain key, which clients poll.
    Key(MultiplexedConnection),
}

enum Held {
    Raw(MultiplexedConnection, redis::Script),
    Onelock(lock_core::Guard),
    Rslock(LockManager, Lock),
    Key(MultiplexedConnection),
}

impl Holder {
    async fn acquire(&mut self) -> Held {
        match self {
            Self::Onelock(locker) => Held::Onelock(locker.acquire("onelock").await.expect("it becomes free")),
            Self::Raw(connection, release) => {
                hold(connection, "raw").await;
                Held::Raw(connection.clone(), release.clone())
            }
            Self::Rslock(manager) => loop {
                if let Ok(lock) = manager.lock("rslock", TTL).await {
                    return Held::Rslock(manager.clone(), lock);
                }
            },
            Self::Key(connection) => {
                hold(connection, "redis-py").await;
                Held::Key(connection.clone())
            }
        }
    }
}

/// Sets `key` as soon as the previous holder has deleted it.
async fn hold(connection: &mut MultiplexedConnection, key: &str) {
    loop {
        let mut set = redis::cmd("SET");
        set.arg(key).arg("bench").arg("NX").arg("PX").arg(30_000);
        let answer: redis::Value = set.query_async(connection).await.expect("the server answers");
        if answer == redis::Value::Okay {
            return;
        }
    }
}

impl Held {
    async fn release(self) {
        match self {
            Self::Raw(mut connection, release) => {
                let _: i64 = release.key("raw").invoke_async(&mut connection).await.expect("the server answers");
            }
            Self::Onelock(guard) => drop(guard.release().await.expect("it is held")),
            Self::Rslock(manager, lock) => manager.unlock(&lock).await,
            Self::Key(mut connection) => {
                redis::cmd("DEL").arg("redis-py").exec_async(&mut connection).await.expect("the server answers");
            }
        }
    }
}

fn once(runtime: &Runtime, holder: &mut Holder, waiter: &mut Process) -> f64 {
    let held = runtime.block_on(holder.acquire());
    waiter.tell("wait");
    // Sleeps until the process waits. Renewals of the holder continue meanwhile.
    runtime.block_on(async { tokio::time::sleep(Duration::from_millis(15)).await });
    let released = monotonic_nanos();
    runtime.block_on(held.release());
    (waiter.answer() - released) as f64 / 1e3
}

fn round_trip(runtime: &Runtime, connection: &mut MultiplexedConnection) -> f64 {
    // Pauses as long as for the waiter, because a sleeping processor takes time to wake.
    runtime.block_on(async { tokio::time::sleep(Duration::from_millis(15)).await });
    let start = Instant::now();
    runtime.block_on(redis::cmd("PING").exec_async(connection)).expect("the server answers");
    micros(start.elapsed())
}

pub(crate) fn run() {
    let server = RedisServer::start();
    let (runtime, port) = (runtime(), server.port());
    let this = std::env::current_exe().expect("this program has a path");
    let waiter = |how| Process::start(Command::new(&this).args(["wait", how, &port.to_string()]));
    let mut connection = runtime.block_on(connect(port));
    let (mut onelock, mut its_waiter) = (Holder::Onelock(locker(port)), waiter("onelock"));
    let by_hand = Holder::Raw(runtime.block_on(connect(port)), redis::Script::new(DELETE_AND_WAKE));
    let (mut raw, mut raw_waiter) = (by_hand, waiter("raw"));
    let (mut trips, mut times, mut raw_times) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        trips.push(round_trip(&runtime, &mut connection));
        times.push(once(&runtime, &mut onelock, &mut its_waiter));
        raw_times.push(once(&runtime, &mut raw, &mut raw_waiter));
    }
    let trip = median(trips);
    println!("\n{:<22} {:>10} {:>14}", "hand-off to a process", "µs", "round trips");
    println!("{:<22} {trip:>10.1} {:>14.2}", "one round trip", 1.0);
    let print = |name: &str, times: Vec<f64>| {
        let time = median(times);
        println!("{name:<22} {time:>10.1} {:>14.2}", time / trip);
    };
    print("raw, by a message", raw_times);
    print("lock-redis", times);
    let pollers = [
        ("rslock", Holder::Rslock(LockManager::new(vec![url(port)])), waiter("rslock")),
        ("redis-py", Holder::Key(connection), Process::redis_py(port)),
    ];
    for (name, mut holder, mut waiter) in pollers {
        print(name, (0..ROUNDS_OF_POLLERS).map(|_| once(&runtime, &mut holder, &mut waiter)).collect());
    }
    println!("{:<22} {:>10}", "distributed-lock", "cannot wait");
}
