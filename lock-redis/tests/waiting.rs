//! Many processes that wait for one lock.

mod common;

use std::time::{Duration, Instant};

use common::{calls, client, locker, until};
use integration::redis::RedisServer;
use lock_core::{Locker, backend::Release};

const TTL: Duration = Duration::from_secs(30);

/// Lets `count` processes wait for one lock, and hand it on until all had it. Returns the requests for each.
async fn requests_per_hand_off(server: &RedisServer, count: u32) -> f64 {
    let name = format!("job-{count}");
    let lockers: Vec<Locker> = (0..count).map(|_| locker(client(server.addr()), TTL)).collect();
    let first = locker(client(server.addr()), TTL).lock(&name).acquire().await.unwrap();
    let waiting: Vec<_> = lockers
        .into_iter()
        .map(|locker| {
            let name = name.clone();
            tokio::spawn(async move {
                let guard = locker.lock(name).acquire().await.unwrap();
                assert_eq!(guard.release().await.unwrap(), Release::Released);
            })
        })
        .collect();
    let queue = format!("dlock:{{{name}}}:w");
    until("all to queue", async || server.command(&["ZCARD", &queue]) == format!(":{count}\r\n")).await;
    let (before, start) = (calls(server, "eval"), Instant::now());
    assert_eq!(first.release().await.unwrap(), Release::Released);
    for one in waiting {
        one.await.unwrap();
    }
    let requests = calls(server, "eval") - before;
    println!("{count} processes: {requests} requests, {:?} for each hand-off", start.elapsed() / count);
    requests as f64 / f64::from(count)
}

#[tokio::test]
async fn requests_per_hand_off_do_not_grow_with_the_number_of_waiting_processes() {
    let server = RedisServer::start();
    for count in [2, 16, 64] {
        let each = requests_per_hand_off(&server, count).await;
        // One to release and one to acquire; some poll meanwhile.
        assert!((2.0..=4.0).contains(&each), "{each} requests for each hand-off among {count}");
    }
}
