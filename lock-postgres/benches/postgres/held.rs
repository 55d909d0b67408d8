//! Measures the cost of holding many locks on one connection.

use std::time::{Duration, Instant};

use lock_core::Guard;
use test_support::processor_time;

use super::{TTL, config, current_thread, locker, server};

const LOCKS: u32 = 10_000;
/// Long enough for three renewals of each lock.
const WINDOW: Duration = Duration::from_secs(30);

pub(crate) fn run() {
    let server = server(&["shared_preload_libraries=pg_stat_statements"]);
    server.sql("create extension pg_stat_statements");
    current_thread().block_on(async {
        let locker = locker(config(&server));
        let start = Instant::now();
        let mut guards: Vec<Guard> = Vec::new();
        for n in 0..LOCKS {
            guards.push(locker.acquire(format!("held-{n}")).await.expect("it is free"));
        }
        println!("\n{LOCKS} locks, acquired in {:.1} s", start.elapsed().as_secs_f64());
        server.sql("select pg_stat_statements_reset()");
        let before = (Instant::now(), processor_time());
        tokio::time::sleep(WINDOW).await;
        let elapsed = before.0.elapsed().as_secs_f64();
        let number = |sql: &str| server.sql(sql).parse::<f64>().expect("a number");
        let of_locks = "from pg_stat_statements where query like '%onelock%name%'";
        println!("held with a ttl of {TTL:?}, over {elapsed:.0} s");
        println!("client        {:>9.2} % of a core", 100.0 * (processor_time() - before.1).as_secs_f64() / elapsed);
        let ran = number(&format!("select coalesce(sum(total_exec_time + total_plan_time), 0) {of_locks}"));
        println!("server        {:>9.2} % of a core, in the statements", ran / 10.0 / elapsed);
        println!("renewals      {:>9.0} a second", number(&format!("select sum(rows) {of_locks}")) / elapsed);
        println!("statements    {:>9.1} a second", number(&format!("select sum(calls) {of_locks}")) / elapsed);
        let connections = "select count(*) from pg_stat_activity where application_name = 'onelock'";
        println!("connections   {:>9}", number(connections));
        println!("lost          {:>9}", guards.iter().filter(|guard| guard.check().is_err()).count());
        for guard in guards {
            let _ = guard.release().await.expect("it is held");
        }
    });
}
