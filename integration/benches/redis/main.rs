//! Measures Redis locks in one run: `cargo bench -p integration --bench redis`.
//!
//! - The uncontended cycle, against the raw commands on the same kind of connection and against
//!   other lock libraries, with the commands of each.
//! - The hand-off to a waiting process, in round trips.
//! - The cost of 10,000 held locks.
//!
//! Contestants take turns in short blocks, so that the state of the machine affects all of them.
//! The output shows medians, and medians of the ratios of neighbouring blocks.

mod cycle;
mod hand_off;
mod held;
mod python;

use std::time::Duration;

use lock_core::Locker;
use lock_redis::{RedisBackend, RedisConfig};
use redis::aio::MultiplexedConnection;
use test_support::redis::RedisServer;
use tokio::runtime::Runtime;

/// The lease of all contestants.
const TTL: Duration = Duration::from_secs(30);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [wait, how, port] = &arguments[..]
        && wait == "wait"
    {
        return hand_off::wait(how, port.parse().expect("a port"));
    }
    // `cargo bench` adds options; a word chooses a part.
    let part = arguments.iter().find(|argument| !argument.starts_with('-'));
    let chosen = |name: &str| part.is_none_or(|part| part == name);
    if chosen("cycle") {
        cycle::run();
    }
    if chosen("hand-off") {
        hand_off::run();
    }
    if chosen("held") {
        held::run();
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

fn backend(port: u16) -> RedisBackend {
    RedisBackend::new(RedisConfig::from_url(&url(port)).expect("a URL")).expect("nothing contradicts")
}

fn locker(port: u16) -> Locker {
    Locker::builder(std::sync::Arc::new(backend(port))).ttl(TTL).build().expect("defaults")
}

/// Opens a connection of the kind that lock-redis uses.
async fn connect(port: u16) -> MultiplexedConnection {
    let client = redis::Client::open(format!("{}/?protocol=resp3", url(port))).expect("a URL");
    client.get_multiplexed_async_connection().await.expect("the server answers")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Returns how often the server has run each command since its statistics were reset.
fn commands(server: &RedisServer) -> Vec<(String, f64)> {
    let stats = server.command(&["INFO", "commandstats"]);
    let parse = |line: &str| {
        let (command, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((command.to_owned(), rest.split_once(',')?.0.parse().ok()?))
    };
    stats.lines().filter_map(parse).filter(|(command, _)| !command.starts_with("config")).collect()
}
