//! Cycles of a lock and of raw requests, for the program that compares them.
//!
//! The first line that it prints has the names of the contestants, with tabs between them. Then it
//! answers each line with one line:
//!
//! - `cycles CONTESTANT NUMBER` makes cycles of the contestant at that index. The answer is the
//!   processor time of this process, and the time of each cycle, in nanoseconds.
//! - `requests CONTESTANT NUMBER` makes them through a proxy. The answer is the number of requests.

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use aws_sdk_dynamodb::Client;
use lock_core::{Locker, backend::LeaseId};
use lock_dynamo::{DynamoBackend, DynamoConfig};
use test_support::{dynamodb::DynamoDbLocal, processor_time, wire::Wire};
use tokio::runtime::{Builder, Runtime};

use super::{
    TTL,
    raw::{self, Plain},
};

const NAMES: [&str; 4] = [
    "two UpdateItems, SDK",
    "two UpdateItems, SDK without retries and TLS",
    "two UpdateItems, plain HTTP without signatures",
    "onelock",
];

#[derive(Debug)]
enum Contestant {
    Sdk(Client, String, &'static str),
    Plain(Box<Plain>),
    Onelock(Locker),
}

impl Contestant {
    async fn all(server: SocketAddr, table: &str) -> [Self; NAMES.len()] {
        let endpoint = format!("http://{server}");
        let config = DynamoConfig::new(table).endpoint(&endpoint).region("eu-central-1");
        let backend = DynamoBackend::new(config.credentials("test", "test", None));
        [
            Self::Sdk(raw::by_default(&endpoint), table.to_owned(), "default"),
            Self::Sdk(raw::as_onelock_does(&endpoint), table.to_owned(), "bare"),
            Self::Plain(Box::new(Plain::connect(server, table, "plain").await)),
            Self::Onelock(Locker::builder(Arc::new(backend)).ttl(TTL).build().expect("the times fit")),
        ]
    }

    async fn cycle(&mut self) {
        match self {
            Self::Sdk(client, table, key) => raw::two_updates(client, table, key).await,
            Self::Plain(plain) => plain.two_updates().await,
            Self::Onelock(locker) => {
                let guard = locker.acquire("cycle").await.expect("it is free");
                let _ = guard.release().await.expect("it answers");
            }
        }
    }
}

/// All contestants at one address. Their cycles run in a task of the runtime, as in programs.
struct Contestants<'r>(&'r Runtime, [Option<Contestant>; NAMES.len()]);

impl<'r> Contestants<'r> {
    fn new(runtime: &'r Runtime, server: SocketAddr, table: &str) -> Self {
        Self(runtime, runtime.block_on(Contestant::all(server, table)).map(Some))
    }

    /// Returns the time of each cycle, in nanoseconds.
    fn block(&mut self, next: usize, cycles: usize) -> Vec<u128> {
        let mut contestant = self.1[next].take().expect("it came back");
        let task = async move {
            let mut times = Vec::with_capacity(cycles);
            for _ in 0..cycles {
                let start = Instant::now();
                contestant.cycle().await;
                times.push(start.elapsed().as_nanos());
            }
            (contestant, times)
        };
        let (contestant, times) = self.0.block_on(async { tokio::spawn(task).await.expect("no cycle fails") });
        self.1[next] = Some(contestant);
        times
    }
}

/// Answers the lines on standard input until its end.
pub(crate) fn serve(workers: usize) {
    let mut builder = if workers == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if workers > 1 {
        builder.worker_threads(workers);
    }
    let runtime = builder.enable_all().build().expect("a runtime");
    let server = DynamoDbLocal::shared();
    let table = format!("bench-{}", LeaseId::random());
    server.create_table(&table);
    let wire = Wire::start(server.address());
    let mut direct = Contestants::new(&runtime, server.address(), &table);
    let mut counted = Contestants::new(&runtime, wire.address(), &table);
    println!("{}", NAMES.join("\t"));
    for line in io::stdin().lines() {
        let line = line.expect("the other program writes text");
        let words: Vec<&str> = line.split(' ').collect();
        let [what, next, number] = words[..] else { panic!("unknown line {line:?}") };
        let (next, number) = (next.parse().expect("an index"), number.parse().expect("a number"));
        match what {
            "cycles" => {
                let used = processor_time();
                let times = direct.block(next, number);
                let used = (processor_time() - used).as_nanos();
                let figures: Vec<_> = std::iter::once(used).chain(times).map(|nanos| nanos.to_string()).collect();
                println!("{}", figures.join(" "));
            }
            "requests" => {
                wire.take_seen();
                counted.block(next, number);
                println!("{}", wire.take_seen().len());
            }
            _ => panic!("unknown line {line:?}"),
        }
    }
}
