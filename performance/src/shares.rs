//! How two processes share one lock, with and without hand-over.

use std::{io::BufRead as _, sync::Arc, time::Duration};

use lock_core::{Locker, backend::Backend};
use lock_efs::FileBackend;
use test_support::{postgres::PostgresServer, redis::RedisServer};
use tokio::time::{Instant, timeout_at};

use crate::{effort::Effort, flavor::Flavor, peers::Process, postgres, redis, table::Table, table::figure};

const TASKS: usize = 32;
/// How long the processes contend for a lock. Long against the time until both have had it.
const WINDOW: Duration = Duration::from_secs(3);
const HAND_OVERS: [u32; 3] = [0, 100, 1000];

/// Two processes contend for one name on each store.
pub(crate) fn table(effort: Effort) -> Table {
    let (redis, postgres) = (RedisServer::start(), PostgresServer::start());
    let directory = tempfile::tempdir().expect("a directory for the locks");
    let created = Flavor::CurrentThread.runtime().block_on(postgres::backend(&postgres.url()).init());
    assert!(created.expect("the table can be created"));
    let stores = [
        ("onelock on Redis", "redis", redis.port().to_string()),
        ("onelock on PostgreSQL", "postgres", postgres.url()),
        ("onelock on files", "files", directory.path().display().to_string()),
    ];
    let titles = ["share of the first, %", "of the second, %", "acquisitions a second"];
    let mut table = Table::new("Two processes of 32 tasks on one lock", &titles);
    for (title, store, place) in &stores {
        for times in HAND_OVERS {
            let title = if times == 0 { (*title).to_owned() } else { format!("{title}, hand_over={times}") };
            table.row(title, share(store, &times.to_string(), place, effort.window(WINDOW)));
        }
    }
    table
}

fn share(store: &str, times: &str, place: &str, window: Duration) -> [String; 3] {
    let start = || Process::own(["share", store, times, place, Flavor::CurrentThread.name()]);
    let mut members = [start(), start()];
    // Connects, and waits until both have started.
    for member in &mut members {
        member.ask("0");
    }
    for member in &mut members {
        member.tell(&window.as_secs_f64().to_string());
    }
    let [first, second] = members.each_mut().map(|member| member.numbers()[0]);
    let all = first + second;
    [figure(100.0 * first / all), figure(100.0 * second / all), figure(all / window.as_secs_f64())]
}

/// Answers each number of seconds with the number of acquisitions meanwhile.
pub(crate) fn member(store: &str, times: &str, place: &str, flavor: Flavor) {
    let runtime = flavor.runtime();
    let name = format!("shared-{times}");
    let locker = runtime.block_on(async {
        let locker = Locker::builder(backend(store, place)).hand_over(times.parse().expect("a number"));
        let locker = locker.build().expect("the store hands over");
        let own = format!("own-{}", std::process::id());
        let _ = locker.acquire(own.as_str()).await.expect("the store answers").release().await.expect("it is held");
        locker
    });
    for line in std::io::stdin().lock().lines() {
        let seconds = line.expect("the parent writes").parse().expect("seconds");
        println!("{}", runtime.block_on(contend(&locker, &name, Duration::from_secs_f64(seconds))));
    }
}

fn backend(store: &str, place: &str) -> Arc<dyn Backend> {
    match store {
        "redis" => Arc::new(redis::backend(place.parse().expect("a port"))),
        "postgres" => Arc::new(postgres::backend(place)),
        _ => Arc::new(FileBackend::open(place).expect("the directory is there")),
    }
}

async fn contend(locker: &Locker, name: &str, window: Duration) -> usize {
    let end = Instant::now() + window;
    let tasks: Vec<_> = (0..TASKS).map(|_| tokio::spawn(work(locker.clone(), name.to_owned(), end))).collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await.expect("no task panics");
    }
    sum
}

async fn work(locker: Locker, name: String, end: Instant) -> usize {
    let mut count = 0;
    while Instant::now() < end {
        let Ok(guard) = timeout_at(end, locker.acquire(name.as_str())).await else { break };
        let _ = guard.expect("the store answers").release().await.expect("it is held");
        count += 1;
    }
    count
}
