//! A process of a crowd.

use std::{io::BufRead as _, sync::Arc, time::Duration};

use lock_core::{Locker, LockerBuilder};
use redis::aio::MultiplexedConnection;
use rslock::LockManager;
use tokio::{
    sync::{
        Mutex,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    time::{Instant, timeout_at},
};

use super::super::{
    TTL, backend, connect,
    raw::{Listener, Raw, RawWithToken, try_set},
    url,
};
use crate::{flavor::Flavor, table::micros};

/// Answers each line `contend NAME SECONDS TASKS` with the number of tasks that never acquired, and
/// the microseconds of each acquisition. For the name `-` each task has its own.
pub(crate) fn contend(how: &str, port: u16, flavor: Flavor) {
    let runtime = flavor.runtime();
    let way = runtime.block_on(Way::new(how, port));
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("the parent writes");
        let [_, name, seconds, tasks] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("unknown: {line}") };
        let end = Duration::from_secs_f64(seconds.parse().expect("seconds"));
        let waits = runtime.block_on(way.crowd(port, name, end, tasks.parse().expect("a number")));
        let starved = waits.iter().filter(|waits| waits.is_empty()).count();
        let waits: String = waits.concat().iter().map(|wait| format!(" {wait:.1}")).collect();
        println!("{starved}{waits}");
    }
}

/// What the tasks of this process share.
struct Shared {
    listener: Mutex<Listener>,
    turn: Mutex<()>,
    /// The channel of each task.
    ring: Vec<(UnboundedSender<()>, Mutex<UnboundedReceiver<()>>)>,
}

impl Shared {
    async fn new(port: u16, name: &str, tasks: usize) -> Self {
        let ring: Vec<_> = (0..tasks).map(|_| unbounded_channel()).map(|(to, from)| (to, Mutex::new(from))).collect();
        if let Some((first, _)) = ring.first() {
            first.send(()).expect("the ring keeps its receivers");
        }
        Self { listener: Mutex::new(Listener::new(port, name).await), turn: Mutex::default(), ring }
    }
}

/// How the tasks of this process lock.
#[derive(Clone)]
enum Way {
    Raw(Raw),
    RawWithToken(RawWithToken),
    /// A queue in the process, and messages between processes.
    Queue,
    /// A mutex of this process, which every task has to wait for.
    Mutex,
    /// A message that each task of this process sends to the next one.
    Channel,
    /// A request without a lock.
    Request(MultiplexedConnection),
    Onelock(Locker),
    Rslock(LockManager),
}

impl Way {
    async fn new(how: &str, port: u16) -> Self {
        let locker = || Locker::builder(Arc::new(backend(port))).ttl(TTL);
        let onelock = |locker: LockerBuilder| Self::Onelock(locker.build().expect("the store has the capability"));
        let number = |text: &str| text.parse().expect("a number");
        match how {
            "raw" => Self::Raw(Raw::new(port).await),
            "raw with a token" => Self::RawWithToken(RawWithToken::new(port).await),
            "raw queue" => Self::Queue,
            "mutex, no store" => Self::Mutex,
            "channel, no store" => Self::Channel,
            "one request each" => Self::Request(connect(port).await),
            "onelock" => onelock(locker()),
            "onelock, fair" => onelock(locker().fair(true)),
            "rslock" => Self::Rslock(LockManager::new(vec![url(port)])),
            other => onelock(locker().hand_over(number(other.trim_start_matches("onelock, hand_over=")))),
        }
    }

    /// Returns the waits of each task.
    async fn crowd(&self, port: u16, name: &str, window: Duration, tasks: usize) -> Vec<Vec<f64>> {
        let shared = Arc::new(Shared::new(port, name, tasks).await);
        let end = Instant::now() + window;
        // A turn that is passed on belongs to all tasks.
        let own = name == "-" && !matches!(self, Self::Mutex | Self::Channel);
        let start = |task| {
            let name = if own { format!("own-{}-{task}", std::process::id()) } else { name.to_owned() };
            tokio::spawn(self.clone().task(Arc::clone(&shared), task, name, own, end))
        };
        let tasks: Vec<_> = (0..tasks).map(start).collect();
        let mut waits = Vec::new();
        for task in tasks {
            waits.push(task.await.expect("no task panics"));
        }
        waits
    }

    async fn task(mut self, shared: Arc<Shared>, task: usize, name: String, own: bool, end: Instant) -> Vec<f64> {
        let mut waits = Vec::new();
        while Instant::now() < end {
            let start = Instant::now();
            let once = self.once(&shared, task, &name, start);
            // An own lock is always free, and must be free again for the next block.
            let done = if own { Ok(once.await) } else { timeout_at(end, once).await };
            let Ok(wait) = done else { break };
            if start + Duration::from_secs_f64(wait / 1e6) < end {
                waits.push(wait);
            }
        }
        waits
    }

    /// Acquires and releases, and returns the microseconds until the lock was acquired.
    async fn once(&mut self, shared: &Shared, task: usize, name: &str, start: Instant) -> f64 {
        match self {
            Self::Raw(raw) => {
                raw.cycle(name).await;
                micros(start.elapsed())
            }
            Self::RawWithToken(raw) => {
                raw.cycle(name).await;
                micros(start.elapsed())
            }
            Self::Queue => {
                let mut listener = shared.listener.lock().await;
                listener.acquire().await;
                let wait = micros(start.elapsed());
                listener.release().await;
                wait
            }
            Self::Mutex => {
                let _turn = shared.turn.lock().await;
                let wait = micros(start.elapsed());
                // Otherwise a task would have it again and again, before another one runs.
                tokio::task::yield_now().await;
                wait
            }
            Self::Channel => {
                shared.ring[task].1.lock().await.recv().await.expect("the ring keeps its senders");
                let wait = micros(start.elapsed());
                shared.ring[(task + 1) % shared.ring.len()].0.send(()).expect("the ring keeps its receivers");
                wait
            }
            Self::Request(connection) => {
                try_set(connection, name, "x").await;
                micros(start.elapsed())
            }
            Self::Onelock(locker) => {
                let guard = locker.acquire(name).await.expect("the server answers");
                let wait = micros(start.elapsed());
                let _ = guard.release().await.expect("it is held");
                wait
            }
            Self::Rslock(manager) => loop {
                // rslock gives up after three attempts.
                if let Ok(lock) = manager.lock(name, TTL).await {
                    let wait = micros(start.elapsed());
                    manager.unlock(&lock).await;
                    return wait;
                }
            },
        }
    }
}
