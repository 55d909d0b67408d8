//! Measures the cost of holding many locks.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use lock_core::{Guard, Locker};
use redis::aio::MultiplexedConnection;
use test_support::{processor_time, redis::RedisServer};

use super::{backend, connect, raw::try_set, requests};
use crate::{
    effort::Effort,
    flavor::Flavor,
    peers::Process,
    table::{Table, figure},
};

const LOCKS: [usize; 4] = [1, 100, 1_000, 10_000];
/// A third of it passes between two renewals.
const TTL: Duration = Duration::from_secs(15);
/// Long enough for two renewals of each lock.
const WINDOW: Duration = Duration::from_secs(10);
/// Acquisitions and renewals at a time.
const BATCH: usize = 500;

const COMPARE_AND_RENEW: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) else return 0 end";

pub(crate) fn run(effort: Effort) -> Vec<Table> {
    let columns = [
        "memory of a lock, KB",
        "memory at the server, KB",
        "processor of the client, %",
        "processor of the server, %",
        "requests a second",
        "lost",
    ];
    // All at once: they use little of the processors, and wait for renewals.
    let start = |how: &'static str, locks: usize| {
        let server = RedisServer::start();
        let process = Process::own(["hold", "redis", how, &server.port().to_string(), Flavor::CurrentThread.name()]);
        (how, locks, server, process)
    };
    let mut holders: Vec<_> = ["raw", "onelock"].iter().flat_map(|how| LOCKS.map(|locks| start(how, locks))).collect();
    let memory = |server: &RedisServer| {
        let info = server.command(&["INFO", "memory"]);
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("a field of INFO");
        line.trim().parse::<f64>().expect("bytes") / 1e3
    };
    let before: Vec<_> = holders.iter().map(|(.., server, _)| memory(server)).collect();
    for (_, locks, _, process) in &mut holders {
        process.tell(&locks.to_string());
    }
    let clients: Vec<_> = holders.iter_mut().map(|(.., process)| process.numbers()[0]).collect();
    let held: Vec<_> = holders.iter().map(|(.., server, _)| memory(server)).collect();
    let window = effort.window(WINDOW);
    let (started, used) = (Instant::now(), holders.iter().map(|(.., server, _)| server.daemon().processor_time()));
    let used: Vec<_> = used.collect();
    let sent = count(&holders.iter().map(|(.., server, _)| server).collect::<Vec<_>>(), &|| std::thread::sleep(window));
    let elapsed = started.elapsed().as_secs_f64();
    let mut table = Table::new("Held locks on Redis", &columns);
    for (next, (how, locks, server, process)) in holders.iter_mut().enumerate() {
        let server_share = 100.0 * (server.daemon().processor_time() - used[next]).as_secs_f64() / elapsed;
        process.tell("end");
        let [client_share, lost] = process.numbers()[..] else { panic!("a share and a count") };
        let each = |kilobytes: f64| if *locks < 100 { "–".into() } else { figure(kilobytes / *locks as f64) };
        let figures = [each(clients[next]), each(held[next] - before[next]), figure(client_share)];
        let rest = [figure(server_share), figure(f64::from(sent[next]) / elapsed), format!("{lost:.0}")];
        table.row(format!("{how}, {locks}"), figures.into_iter().chain(rest));
    }
    vec![table]
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

enum Held {
    Onelock(Vec<Guard>),
    /// The connection, the name of the script that renews, and the number of locks.
    Raw(MultiplexedConnection, String, usize),
}

/// A process that holds as many locks as its input says. It answers with the kilobytes that they
/// take. After the next line it answers with its share of a processor, and the number of lost
/// locks.
pub(crate) fn hold(how: &str, port: u16, flavor: Flavor) {
    flavor.runtime().block_on(async {
        let locker = Locker::builder(Arc::new(backend(port))).ttl(TTL).build().expect("defaults");
        let mut connection = connect(port).await;
        let locks: usize = line().parse().expect("a number");
        drop(locker.acquire("warm").await.expect("it is free").release().await);
        let before = resident();
        let held = if how == "raw" {
            let keys: Vec<_> = (0..locks).map(key).collect();
            for key in &keys {
                assert!(try_set(&mut connection, key, "held").await, "it is free");
            }
            let load = redis::cmd("SCRIPT").arg("LOAD").arg(COMPARE_AND_RENEW).query_async(&mut connection).await;
            Held::Raw(connection, load.expect("the server answers"), locks)
        } else {
            Held::Onelock(acquire(&locker, locks).await)
        };
        println!("{}", resident() - before);
        let (started, used) = (Instant::now(), processor_time());
        let end = tokio::task::spawn_blocking(line);
        let lost = held.keep(end).await;
        let share = 100.0 * (processor_time() - used).as_secs_f64() / started.elapsed().as_secs_f64();
        println!("{share} {lost}");
    });
}

/// Waits for a line of the parent.
fn line() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("the parent writes");
    line.trim_end().to_owned()
}

async fn acquire(locker: &Locker, locks: usize) -> Vec<Guard> {
    let mut guards = Vec::with_capacity(locks);
    for start in (0..locks).step_by(BATCH) {
        let batch = (start..locks.min(start + BATCH)).map(|lock| locker.acquire(key(lock)));
        guards.extend(join_all(batch).await.into_iter().map(|guard| guard.expect("it is free")));
    }
    guards
}

impl Held {
    /// Renews until `end`, and returns the number of lost locks.
    async fn keep(self, mut end: tokio::task::JoinHandle<String>) -> usize {
        match self {
            Self::Onelock(guards) => {
                end.await.expect("the parent writes");
                guards.iter().filter(|guard| guard.check().is_err()).count()
            }
            Self::Raw(mut connection, renew, locks) => {
                let mut ticks = tokio::time::interval(TTL / 3);
                let mut lost = 0;
                loop {
                    tokio::select! {
                        _ = &mut end => return lost,
                        _ = ticks.tick() => lost += renew_all(&mut connection, &renew, locks).await,
                    }
                }
            }
        }
    }
}

/// Renews each lock by a request, in pipelines, and returns how many were not held.
async fn renew_all(connection: &mut MultiplexedConnection, renew: &str, locks: usize) -> usize {
    let mut lost = 0;
    for start in (0..locks).step_by(BATCH) {
        let mut pipeline = redis::pipe();
        let keys: Vec<_> = (start..locks.min(start + BATCH)).map(key).collect();
        for key in &keys {
            pipeline.cmd("EVALSHA").arg(renew).arg(1).arg(key).arg("held").arg(TTL.as_millis() as u64);
        }
        let answers: Vec<i64> = pipeline.query_async(connection).await.expect("the server answers");
        lost += answers.iter().filter(|answer| **answer != 1).count();
    }
    lost
}

fn key(lock: usize) -> String {
    format!("held-{lock}")
}

/// Returns the resident memory in kilobytes.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is there");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
