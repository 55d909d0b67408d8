//! Measures 64 tasks of one process that acquire one name, with and without `hand_over`:
//! `cargo bench -p lock-redis`.
//!
//! The measure is one request to the same server for each acquisition, one after the other.
//! Contestants take turns in short blocks, so that the state of the machine affects all of them.
//! The output shows medians of the rates, and of the ratios of neighbouring blocks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use lock_core::Locker;
use lock_redis::{RedisBackend, RedisConfig};
use redis::aio::MultiplexedConnection;
use test_support::redis::RedisServer;
use tokio::runtime::{Builder, Runtime};

const TASKS: u64 = 64;
const BLOCKS: usize = 15;
const BLOCK: Duration = Duration::from_millis(300);

fn main() {
    let server = RedisServer::start();
    let one = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let two = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    for (what, runtime) in [("current-thread runtime", one), ("two worker threads", two)] {
        println!("{what}:");
        compare(&runtime, server.port());
        share(&runtime, server.port());
    }
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

fn locker(port: u16, hand_over: u32) -> Locker {
    let config = RedisConfig::from_url(&url(port)).expect("a URL");
    let backend = RedisBackend::new(config).expect("nothing contradicts");
    Locker::builder(Arc::new(backend)).hand_over(hand_over).build().expect("the store has the capability")
}

fn compare(runtime: &Runtime, port: u16) {
    let mut connection = runtime.block_on(connect(port));
    let lockers = [0, 100, 1_000].map(|hand_over| (hand_over, locker(port, hand_over)));
    let mut raw = Vec::new();
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..BLOCKS {
        raw.push(runtime.block_on(requests(&mut connection)));
        for ((_, locker), rates) in lockers.iter().zip(&mut rates) {
            rates.push(runtime.block_on(acquisitions(std::slice::from_ref(locker))).iter().sum());
        }
    }
    println!("  one request for each acquisition: {:.0}/s", median(raw.clone()));
    for ((hand_over, _), rates) in lockers.iter().zip(rates) {
        let ratios = rates.iter().zip(&raw).map(|(rate, raw)| rate / raw).collect();
        println!("  hand_over={hand_over}: {:.0}/s, {:.1} times as many", median(rates), median(ratios));
    }
}

/// Two lockers contend as two processes do: each has its own connection and its own queue.
fn share(runtime: &Runtime, port: u16) {
    for hand_over in [0, 100, 1_000] {
        let lockers = [(); 2].map(|()| locker(port, hand_over));
        let blocks: Vec<_> = (0..BLOCKS).map(|_| runtime.block_on(acquisitions(&lockers))).collect();
        let [first, second] = [0, 1].map(|locker| blocks.iter().map(|block| block[locker]).sum::<f64>());
        println!(
            "  two processes, hand_over={hand_over}: {:.0} % and {:.0} %",
            100.0 * first / (first + second),
            100.0 * second / (first + second)
        );
    }
}

async fn connect(port: u16) -> MultiplexedConnection {
    let client = redis::Client::open(url(port)).expect("a URL");
    client.get_multiplexed_async_connection().await.expect("the server answers")
}

/// Returns the requests of a second.
async fn requests(connection: &mut MultiplexedConnection) -> f64 {
    let (started, mut count) = (Instant::now(), 0.0);
    while started.elapsed() < BLOCK {
        let set = redis::cmd("SET").arg("raw").arg("x").query_async::<()>(connection).await;
        set.expect("the server answers");
        count += 1.0;
    }
    count / started.elapsed().as_secs_f64()
}

/// Returns the acquisitions of a second, for each locker.
async fn acquisitions(lockers: &[Locker]) -> Vec<f64> {
    let stop = Arc::new(AtomicBool::new(false));
    let counts: Vec<_> = lockers.iter().map(|_| Arc::new(AtomicU64::new(0))).collect();
    let started = Instant::now();
    let mut tasks = Vec::new();
    for task in 0..TASKS as usize {
        let at = task % lockers.len();
        let (locker, stop, count) = (lockers[at].clone(), Arc::clone(&stop), Arc::clone(&counts[at]));
        tasks.push(tokio::spawn(async move {
            while !stop.load(Relaxed) {
                let guard = locker.acquire("counter").await.expect("the server answers");
                count.fetch_add(1, Relaxed);
                guard.release().await.expect("the server answers");
            }
        }));
    }
    tokio::time::sleep(BLOCK).await;
    stop.store(true, Relaxed);
    let seconds = started.elapsed().as_secs_f64();
    let rates = counts.iter().map(|count| count.load(Relaxed) as f64 / seconds).collect();
    for task in tasks {
        task.await.expect("no task panics");
    }
    rates
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
