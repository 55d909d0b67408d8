//! Measures the cost of holding many locks on Redis.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use lock_core::Locker;
use redis::aio::MultiplexedConnection;
use test_support::redis::RedisServer;

use super::{backend, connect, raw::try_set, requests};
use crate::{
    effort::Effort,
    flavor::Flavor,
    held::{BATCH, Holder, LOCKS, Raw, TTL, WINDOW, key},
    table::{Table, figure},
};

const COMPARE_AND_RENEW: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) else return 0 end";

pub(crate) fn run(effort: Effort) -> Table {
    let columns = [
        "memory of a lock, KB",
        "memory at the server, KB",
        "processor of the client, %",
        "processor of the server, %",
        "requests a second",
        "lost",
    ];
    let mut holders = Holder::all("redis", LOCKS, RedisServer::start, |server| server.port().to_string());
    // The server counts the buffers of its clients anew each second.
    thread::sleep(Duration::from_secs(2));
    let before: Vec<_> = holders.iter().map(|holder| memory(&holder.store)).collect();
    let clients = Holder::acquire(&mut holders);
    let held: Vec<_> = holders.iter().map(|holder| memory(&holder.store)).collect();
    let window = effort.window(WINDOW);
    let used: Vec<_> = holders.iter().map(|holder| holder.store.daemon().processor_time()).collect();
    let started = Instant::now();
    let servers: Vec<_> = holders.iter().map(|holder| &holder.store).collect();
    let sent = count(&servers, &|| thread::sleep(window));
    let elapsed = started.elapsed().as_secs_f64();
    let mut table = Table::new("Held locks on Redis", &columns);
    for (next, holder) in holders.iter_mut().enumerate() {
        let of_server = holder.store.daemon().processor_time() - used[next];
        let [share, lost] = holder.end();
        let figures = [
            holder.of_each(clients[next]),
            holder.of_each(held[next] - before[next]),
            figure(share),
            figure(100.0 * of_server.as_secs_f64() / elapsed),
            figure(f64::from(sent[next]) / elapsed),
            format!("{lost:.0}"),
        ];
        table.row(holder.title(), figures);
    }
    table
}

/// Returns the kilobytes that the server uses, without the buffers of its clients, which grow and
/// shrink.
fn memory(server: &RedisServer) -> f64 {
    let info = server.command(&["INFO", "memory"]);
    let bytes = |field| -> f64 {
        let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.expect("a field of INFO").trim().parse().expect("bytes")
    };
    (bytes("used_memory") - bytes("mem_clients_normal")) / 1e3
}

/// Counts the requests of all servers during `work`.
fn count(servers: &[&RedisServer], work: &dyn Fn()) -> Vec<u32> {
    let Some((first, rest)) = servers.split_first() else {
        work();
        return Vec::new();
    };
    let mut others = Vec::new();
    let sent = requests(first, || others = count(rest, work));
    [&[sent], &others[..]].concat()
}

/// The process that holds the locks.
pub(crate) fn hold(how: &str, port: u16, flavor: Flavor) {
    flavor.runtime().block_on(async {
        let locker = Locker::builder(Arc::new(backend(port))).ttl(TTL).build().expect("defaults");
        crate::held::hold(how, locker, Keys::new(connect(port).await).await).await;
    });
}

/// Keys that a program sets and renews without a library.
struct Keys {
    connection: MultiplexedConnection,
    /// The name of the script that renews.
    renew: String,
    locks: usize,
}

impl Keys {
    async fn new(mut connection: MultiplexedConnection) -> Self {
        let load = redis::cmd("SCRIPT").arg("LOAD").arg(COMPARE_AND_RENEW).query_async(&mut connection).await;
        Self { connection, renew: load.expect("the server answers"), locks: 0 }
    }
}

impl Raw for Keys {
    async fn acquire(&mut self, locks: usize) {
        for key in (0..locks).map(key) {
            assert!(try_set(&mut self.connection, &key, "held").await, "it is free");
        }
        self.locks = locks;
    }

    /// Renews each lock by a request, in pipelines.
    async fn renew(&mut self) -> usize {
        let mut lost = 0;
        for start in (0..self.locks).step_by(BATCH) {
            let mut pipeline = redis::pipe();
            for key in (start..self.locks.min(start + BATCH)).map(key) {
                pipeline.cmd("EVALSHA").arg(&self.renew).arg(1).arg(key).arg("held").arg(TTL.as_millis() as u64);
            }
            let answers: Vec<i64> = pipeline.query_async(&mut self.connection).await.expect("the server answers");
            lost += answers.iter().filter(|answer| **answer != 1).count();
        }
        lost
    }
}
