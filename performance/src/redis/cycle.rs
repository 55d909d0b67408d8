//! Measures acquire and release of an uncontended lock.

use std::time::{Duration, Instant};

use lock_core::{
    LockName, Locker, Mode, TryAcquire,
    backend::{AcquireOutcome, AcquireRequest, Backend, LeaseId},
};
use lock_redis::RedisBackend;
use rslock::LockManager;
use test_support::redis::RedisServer;
use tokio::runtime::Runtime;

use super::{
    TTL, backend, locker,
    raw::{Raw, RawWithToken},
    requests, url,
};
use crate::{
    effort::Effort,
    flavor::Flavor,
    peers::Process,
    table::{FOUR_PERMITS, Table, micros},
    turns::{self, Block},
};

const ROUNDS: usize = 60;
/// The number of cycles in a block.
const CYCLES: u32 = 50;

enum Contestant {
    Raw(Box<Raw>),
    RawWithToken(Box<RawWithToken>),
    /// With the name of the lock.
    Locker(Locker, &'static str),
    Backend(RedisBackend),
    Rslock(LockManager),
    /// Another process runs the block.
    Peer(Process),
}

impl Contestant {
    async fn all(port: u16) -> Vec<(&'static str, Self)> {
        vec![
            ("raw", Self::Raw(Box::new(Raw::new(port).await))),
            ("raw with a token", Self::RawWithToken(Box::new(RawWithToken::new(port).await))),
            ("onelock", Self::Locker(locker(port, Mode::Exclusive), "exclusive")),
            ("onelock, backend only", Self::Backend(backend(port))),
            ("onelock, shared", Self::Locker(locker(port, Mode::Shared), "shared")),
            ("onelock, one of 4 permits", Self::Locker(locker(port, FOUR_PERMITS), "permits")),
            ("rslock", Self::Rslock(LockManager::new(vec![url(port)]))),
            ("node redlock", Self::Peer(Process::redlock(port))),
            ("redis-py", Self::Peer(Process::python("redis-py", &port.to_string()))),
            ("python-redis-lock", Self::Peer(Process::python("python-redis-lock", &port.to_string()))),
        ]
    }

    async fn cycle(&mut self) {
        match self {
            Self::Raw(raw) => raw.cycle("raw").await,
            Self::RawWithToken(raw) => raw.cycle("fenced").await,
            Self::Backend(backend) => {
                let name = LockName::new("backend").expect("a name");
                let request = AcquireRequest::new(name, LeaseId::random(), "bench").with_ttl(TTL);
                let Ok(AcquireOutcome::Granted(grant)) = backend.acquire(&request).await else { panic!("it is free") };
                let _ = backend.release(&request.lease(grant.token), Duration::ZERO).await.expect("it is held");
            }
            Self::Locker(locker, name) => {
                let Ok(TryAcquire::Acquired(guard)) = locker.try_acquire(*name).await else { panic!("it is free") };
                let _ = guard.release().await.expect("it is held");
            }
            Self::Rslock(manager) => {
                let lock = manager.lock("rslock", TTL).await.expect("it is free");
                manager.unlock(&lock).await;
            }
            Self::Peer(_) => unreachable!("another process runs the block"),
        }
    }

    /// Returns the times of cycles, which run in a task of the runtime, as in programs.
    fn block(self, runtime: &Runtime, cycles: u32) -> (Self, Vec<f64>) {
        if let Self::Peer(mut process) = self {
            process.tell(&format!("cycles {cycles}"));
            let times = process.numbers().into_iter().map(|nanos| nanos / 1e3).collect();
            return (Self::Peer(process), times);
        }
        let mut contestant = self;
        let task = async move {
            let mut times = Vec::new();
            for _ in 0..cycles {
                let start = Instant::now();
                contestant.cycle().await;
                times.push(micros(start.elapsed()));
            }
            (contestant, times)
        };
        runtime.block_on(async { tokio::spawn(task).await.expect("no cycle fails") })
    }
}

pub(crate) fn run(effort: Effort) -> Vec<Table> {
    let measured = Flavor::ALL.map(|flavor| on(flavor, effort));
    let added = added(&measured.each_ref().map(|(_, parts)| *parts));
    measured.into_iter().map(|(table, _)| table).chain([added]).collect()
}

/// Where the time beyond that of the raw requests goes: what is added, by which contestant, to
/// which.
const ADDED: [[&str; 3]; 4] = [
    ["raw with a token: the token", "raw with a token", "raw"],
    ["onelock: the holder's record, wake-ups, late requests", "onelock, backend only", "raw with a token"],
    ["onelock: the core, with its renewal task", "onelock", "onelock, backend only"],
    ["onelock, in all", "onelock", "raw"],
];

/// Shows what takes the time beyond that of the raw requests, on each runtime.
fn added(parts: &[[f64; 4]]) -> Table {
    let mut table = Table::new("What a Redis cycle adds to raw", &Flavor::ALL.map(Flavor::name));
    for (row, [title, ..]) in ADDED.into_iter().enumerate() {
        table.row(title, parts.iter().map(|parts| format!("{:.2}", parts[row])));
    }
    table
}

/// Returns the table, and the figures of [`ADDED`].
fn on(flavor: Flavor, effort: Effort) -> (Table, [f64; 4]) {
    let server = RedisServer::start();
    let runtime = flavor.runtime();
    let (names, mut contestants): (Vec<_>, Vec<_>) =
        runtime.block_on(Contestant::all(server.port())).into_iter().map(|(name, one)| (name, Some(one))).unzip();
    let mut block = |next: usize, cycles: u32| {
        let contestant: Contestant = contestants[next].take().expect("it came back");
        let (contestant, times) = contestant.block(&runtime, cycles);
        contestants[next] = Some(contestant);
        times
    };
    let blocks = turns::take(names.len(), effort.rounds(ROUNDS), |next| {
        let before = server.daemon().processor_time();
        let figures = block(next, CYCLES);
        Block { figures, processor: micros((server.daemon().processor_time() - before) / CYCLES) }
    });
    let columns = [&turns::COLUMNS[..], &["requests", "server's processor, µs"]].concat();
    let mut table = Table::new(format!("Redis cycle, {}", flavor.name()), &columns);
    for (next, name) in names.iter().enumerate() {
        let sent = f64::from(requests(&server, || drop(block(next, CYCLES)))) / f64::from(CYCLES);
        let rest = [format!("{sent:.2}"), turns::processor(&blocks[next])];
        table.row(*name, turns::figures(&blocks[next], &blocks[0]).into_iter().chain(rest));
    }
    let of = |wanted: &str| &blocks[names.iter().position(|name| *name == wanted).expect("a contestant")];
    (table, ADDED.map(|[_, more, less]| turns::added(of(more), of(less), &blocks[0])))
}
