//! Locks on Redis.

pub(crate) mod crowd;
pub(crate) mod cycle;
pub(crate) mod hand_off;
pub(crate) mod held;
mod raw;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use lock_core::{Locker, Mode};
use lock_redis::{RedisBackend, RedisConfig};
use redis::aio::MultiplexedConnection;
use test_support::redis::RedisServer;

/// The lease of all contestants.
const TTL: Duration = Duration::from_secs(30);

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

pub(crate) fn backend(port: u16) -> RedisBackend {
    RedisBackend::new(RedisConfig::from_url(&url(port)).expect("a URL")).expect("nothing contradicts")
}

fn locker(port: u16, mode: Mode) -> Locker {
    Locker::builder(Arc::new(backend(port))).ttl(TTL).mode(mode).build().expect("the store has the mode")
}

/// Opens a connection of the kind that lock-redis uses.
async fn connect(port: u16) -> MultiplexedConnection {
    let client = redis::Client::open(format!("{}/?protocol=resp3", url(port))).expect("a URL");
    client.get_multiplexed_async_connection().await.expect("the server answers")
}

/// Counts the requests that the server receives during `work`. Commands in scripts are no requests.
fn requests(server: &RedisServer, work: impl FnOnce()) -> u32 {
    let mut monitor = TcpStream::connect(server.addr()).expect("the server listens");
    monitor.write_all(b"MONITOR\r\n").expect("the server reads");
    let mut lines = BufReader::new(monitor).lines().map(|line| line.expect("the server answers"));
    assert_eq!(lines.next().as_deref(), Some("+OK"));
    work();
    server.command(&["ECHO", "end-of-work"]);
    let seen = lines.take_while(|line| !line.ends_with("\"end-of-work\""));
    seen.filter(|line| !line.contains(" lua] ")).fold(0, |count, _| count + 1)
}
