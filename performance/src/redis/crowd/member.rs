//! A process of a crowd.

use std::{io::BufRead as _, sync::Arc, time::Duration};

use lock_core::{Locker, LockerBuilder};
use redis::aio::MultiplexedConnection;
use rslock::LockManager;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

use super::super::{
    TTL, backend, connect,
    raw::{Listener, Raw, try_set},
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

/// How the tasks of this process lock.
#[derive(Clone)]
enum Way {
    Raw(Raw),
    /// A queue in the process, and messages between processes.
    Queue,
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
            "raw queue" => Self::Queue,
            "one request each" => Self::Request(connect(port).await),
            "onelock" => onelock(locker()),
            "onelock, fair" => onelock(locker().fair(true)),
            "rslock" => Self::Rslock(LockManager::new(vec![url(port)])),
            other => onelock(locker().hand_over(number(other.trim_start_matches("onelock, hand_over=")))),
        }
    }

    /// Returns the waits of each task.
    async fn crowd(&self, port: u16, name: &str, window: Duration, tasks: usize) -> Vec<Vec<f64>> {
        let queue = Arc::new(Mutex::new(Listener::new(port, name).await));
        let end = Instant::now() + window;
        let own = name == "-";
        let start = |task| {
            let name = if own { format!("own-{}-{task}", std::process::id()) } else { name.to_owned() };
            tokio::spawn(self.clone().task(Arc::clone(&queue), name, own, end))
        };
        let tasks: Vec<_> = (0..tasks).map(start).collect();
        let mut waits = Vec::new();
        for task in tasks {
            waits.push(task.await.expect("no task panics"));
        }
        waits
    }

    async fn task(mut self, queue: Arc<Mutex<Listener>>, name: String, own: bool, end: Instant) -> Vec<f64> {
        let mut waits = Vec::new();
        while Instant::now() < end {
            let start = Instant::now();
            let once = self.once(&queue, &name, start);
            // An own lock is always free, and must be free again for the next block.
            let done = if own { Ok(once.await) } else { timeout_at(end, once).await };
            let Ok(wait) = done else { break };
            waits.push(wait);
        }
        waits
    }

    /// Acquires and releases, and returns the microseconds until the lock was acquired.
    async fn once(&mut self, queue: &Mutex<Listener>, name: &str, start: Instant) -> f64 {
        match self {
            Self::Raw(raw) => {
                raw.cycle(name).await;
                micros(start.elapsed())
            }
            Self::Queue => {
                let mut listener = queue.lock().await;
                listener.acquire().await;
                let wait = micros(start.elapsed());
                listener.release().await;
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
