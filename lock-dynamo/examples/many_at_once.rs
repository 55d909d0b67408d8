//! Measures what a crowd costs that tries to acquire one lock in one moment:
//! `cargo run -p lock-dynamo --example many_at_once -- CLIENTS WRITES SPREAD_MS`.
//!
//! The table is on DynamoDB Local. A proxy throttles it above WRITES write units and three times as
//! many read units a second, and counts the units that AWS would bill. Scaled down together, the
//! crowd and the limits keep the times.

use std::{collections::BTreeMap, env, sync::Arc, time::Duration};

use futures_util::future::join_all;
use lock_core::{Guard, Locker, TryAcquire, backend::Backend, backend::LeaseId};
use lock_dynamo::{DynamoBackend, DynamoConfig, TableOptions};
use test_support::{dynamodb::DynamoDbLocal, wire::Wire};
use tokio::time::Instant;

/// How many HTTP clients the crowd shares.
const HOSTS: usize = 20;
const NAME: &str = "nightly-etl";

#[tokio::main]
async fn main() {
    let numbers: Vec<u32> = env::args().skip(1).map(|text| text.parse().expect("a number")).collect();
    let (clients, writes, spread) = match numbers[..] {
        [clients, writes, spread] => (clients, writes, Duration::from_millis(spread.into())),
        _ => (1_000, 100, Duration::from_secs(10)),
    };
    println!("{clients} clients, {writes} writes/s, {} reads/s, spread {spread:?}\n", 3 * writes);
    println!("| when | options | requests | throttled | write units | read units | last answer | answers |");
    println!("|---|---|---|---|---|---|---|---|");
    for read_first in [false, true] {
        for spread in [Duration::ZERO, spread] {
            measure(clients, writes, read_first, spread).await;
        }
    }
}

async fn measure(clients: u32, writes: u32, read_first: bool, spread: Duration) {
    let server = tokio::task::spawn_blocking(DynamoDbLocal::shared).await.expect("it starts");
    let wire = Wire::start(server.address());
    let table = format!("crowd-{}", LeaseId::random());
    let config = || {
        let config = DynamoConfig::new(&table).endpoint(wire.endpoint()).region("eu-central-1");
        DynamoBackend::new(config.credentials("test", "test", None).read_first(read_first))
    };
    config().init(&TableOptions::default()).await.expect("the table is created");
    let backends: Vec<Arc<dyn Backend>> = (0..HOSTS).map(|_| Arc::new(config()) as Arc<dyn Backend>).collect();
    let hosts = backends.iter().cycle().take(clients as usize);
    let lockers: Vec<_> =
        hosts.map(|host| Locker::builder(Arc::clone(host)).spread(spread).build().expect("the options fit")).collect();
    let options = match (read_first, spread.is_zero()) {
        (false, true) => "none",
        (true, true) => "`read_first`",
        (false, false) => "`spread`",
        (true, false) => "both",
    };
    let mut guards = Vec::new();
    for when in ["free", "held"] {
        wire.provision(writes, 3 * writes);
        wire.take_seen();
        let started = Instant::now();
        let answers = crowd(&lockers, &mut guards).await;
        let (elapsed, units) = (started.elapsed().as_secs_f64(), wire.units());
        println!(
            "| {when} | {options} | {} | {} | {} | {} | {elapsed:.1} s | {answers:?} |",
            wire.take_seen().len(),
            units.throttled,
            units.written,
            units.read
        );
    }
}

/// Lets all lockers try at once, and counts the answers.
async fn crowd(lockers: &[Locker], guards: &mut Vec<Guard>) -> BTreeMap<&'static str, u32> {
    let tries = lockers.iter().cloned().map(|locker| tokio::spawn(async move { locker.try_acquire(NAME).await }));
    let mut answers = BTreeMap::new();
    for outcome in join_all(tries.collect::<Vec<_>>()).await {
        let answer = match outcome.expect("no panic") {
            Ok(TryAcquire::Acquired(guard)) => {
                guards.push(guard);
                "acquired"
            }
            Ok(TryAcquire::Contended(_)) => "contended",
            Err(error) => error.kind().as_str(),
        };
        *answers.entry(answer).or_default() += 1;
    }
    answers
}
