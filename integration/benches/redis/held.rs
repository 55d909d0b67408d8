//! Measures the cost of holding many locks.

use std::time::{Duration, Instant};

use lock_core::Guard;
use test_support::{processor_time, redis::RedisServer};

use super::{TTL, commands, locker, runtime};

const LOCKS: u32 = 10_000;
/// Long enough for three renewals of each lock.
const WINDOW: Duration = Duration::from_secs(30);

pub(crate) fn run() {
    let server = RedisServer::start();
    let info = |section: &str, field: &str| {
        let text = server.command(&["INFO", section]);
        text.lines().find_map(|line| line.strip_prefix(field)).expect("a field of INFO").to_owned()
    };
    runtime().block_on(async {
        let locker = locker(server.port());
        let mut guards: Vec<Guard> = Vec::new();
        for n in 0..LOCKS {
            guards.push(locker.acquire(format!("held-{n}")).await.expect("it is free"));
        }
        server.command(&["CONFIG", "RESETSTAT"]);
        let before = (Instant::now(), processor_time(), server.daemon().processor_time());
        tokio::time::sleep(WINDOW).await;
        let elapsed = before.0.elapsed().as_secs_f64();
        let share = |now: Duration, before: Duration| 100.0 * (now - before).as_secs_f64() / elapsed;
        let (ours, theirs) = (share(processor_time(), before.1), share(server.daemon().processor_time(), before.2));
        let calls =
            |name: &str| commands(&server).into_iter().find(|(command, _)| command == name).map_or(0.0, |c| c.1);
        println!("\n{LOCKS} locks held with a ttl of {TTL:?}, over {elapsed:.0} s");
        println!("client                 {ours:>9.2} % of a core");
        println!("server                 {theirs:>9.2} % of a core");
        println!("renewals               {:>9.0} a second", calls("pexpire") / elapsed);
        println!("requests               {:>9.1} a second", calls("evalsha") / elapsed);
        println!("connections            {:>9}", info("clients", "connected_clients:").parse::<u32>().unwrap_or(0) - 1);
        let lost = guards.iter().filter(|guard| guard.check().is_err()).count();
        println!("lost                   {lost:>9}");
        for guard in guards {
            let _ = guard.release().await.expect("it is held");
        }
    });
}
