//! Measures what 64 waiters for one lock cost an unrelated workload.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::{join, join_all};
use lock_core::Locker;
use test_support::postgres::PostgresServer;
use tokio_postgres::Client;

use super::{config, connect, locker, median, multi_thread, server};

const WAITERS: usize = 64;
/// The connections of the unrelated workload.
const WRITERS: usize = 4;
const WINDOW: Duration = Duration::from_secs(3);
const ROUNDS: usize = 5;
/// How long each holder keeps the lock.
const HELD: Duration = Duration::from_millis(20);

pub(crate) fn run() {
    let server = server(&["max_connections=300", "fsync=on"]);
    server.sql("create table work (id bigint generated always as identity, done timestamptz)");
    multi_thread().block_on(async {
        let writers = join_all((0..WRITERS).map(|_| connect(&server))).await;
        let contestants = [
            ("no waiters", Vec::new()),
            ("woken by NOTIFY", waiters(&server, true)),
            ("polling (wake=off)", waiters(&server, false)),
        ];
        let mut commits: Vec<Vec<f64>> = contestants.iter().map(|_| Vec::new()).collect();
        let (mut handed, mut served) = (commits.clone(), commits.clone());
        for _ in 0..ROUNDS {
            for (n, (_, waiters)) in contestants.iter().enumerate() {
                let (done, hand_offs, distinct) = window(&writers, waiters, n).await;
                commits[n].push(done);
                handed[n].push(hand_offs);
                served[n].push(distinct);
            }
        }
        println!(
            "\n{:<24} {:>18} {:>10} {:>14} {:>16}",
            "64 waiters of one lock", "other commits / s", "ratio", "hand-offs / s", "waiters served"
        );
        for (n, (name, _)) in contestants.iter().enumerate() {
            let ratios = commits[n].iter().zip(&commits[0]).map(|(mine, alone)| mine / alone).collect();
            let [done, hand_offs, distinct] = [&commits, &handed, &served].map(|figures| median(figures[n].clone()));
            println!("{name:<24} {done:>18.0} {:>10.2} {hand_offs:>14.1} {distinct:>16.0}", median(ratios));
        }
    });
}

/// Each waiter has its own connections, like a process.
fn waiters(server: &PostgresServer, wake: bool) -> Vec<Locker> {
    (0..WAITERS).map(|_| locker(config(server).wake(wake))).collect()
}

/// Returns the commits of the workload and the acquisitions of the lock in a second, and how many
/// waiters had the lock in the window.
async fn window(writers: &[Client], waiters: &[Locker], number: usize) -> (f64, f64, f64) {
    let stop = AtomicBool::new(false);
    let (commits, acquisitions) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = writers.iter().map(async |writer| {
        while !stop.load(Ordering::Relaxed) {
            writer.batch_execute("insert into work (done) values (now())").await.expect("the server answers");
            commits.fetch_add(1, Ordering::Relaxed);
        }
    });
    let name = format!("job-{number}");
    let served = AtomicU64::new(0);
    let contend = waiters.iter().map(async |waiter| {
        let mut first = true;
        while !stop.load(Ordering::Relaxed) {
            if let Ok(Ok(guard)) = tokio::time::timeout(WINDOW, waiter.acquire(&*name)).await {
                acquisitions.fetch_add(1, Ordering::Relaxed);
                served.fetch_add(u64::from(std::mem::take(&mut first)), Ordering::Relaxed);
                tokio::time::sleep(HELD).await;
                let _ = guard.release().await.expect("the server answers");
            }
        }
    });
    let start = Instant::now();
    let measure = async {
        tokio::time::sleep(WINDOW).await;
        let [commits, acquisitions, served] =
            [&commits, &acquisitions, &served].map(|count| count.load(Ordering::Relaxed));
        let elapsed = start.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        (commits as f64 / elapsed, acquisitions as f64 / elapsed, served as f64)
    };
    let (rates, _) = join(measure, join(join_all(work), join_all(contend))).await;
    rates
}
