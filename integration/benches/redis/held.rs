//! What it costs to hold many locks.

use std::time::{Duration, Instant};

use integration::redis::RedisServer;
use lock_core::Guard;

use super::{TTL, commands, locker, runtime};

const LOCKS: u32 = 10_000;
/// Three renewals of each.
const WINDOW: Duration = Duration::from_secs(30);

/// Processor time of a process, from `/proc`.
fn processor(pid: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let (_, fields) = stat.rsplit_once(") ").expect("a stat line");
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
    // USER_HZ is 100 on Linux, whatever the kernel's own clock is.
    Duration::from_millis(ticks * 10)
}

pub fn run() {
    let server = RedisServer::start();
    let info = |section: &str, field: &str| {
        let text = server.command(&["INFO", section]);
        text.lines().find_map(|line| line.strip_prefix(field)).expect("a field of INFO").to_owned()
    };
    let server_pid = info("server", "process_id:");
    runtime().block_on(async {
        let locker = locker(server.port());
        let mut guards: Vec<Guard> = Vec::new();
        for n in 0..LOCKS {
            guards.push(locker.acquire(format!("held-{n}")).await.expect("it is free"));
        }
        server.command(&["CONFIG", "RESETSTAT"]);
        let before = (Instant::now(), processor("self"), processor(&server_pid));
        tokio::time::sleep(WINDOW).await;
        let elapsed = before.0.elapsed().as_secs_f64();
        let share = |now: Duration, before: Duration| 100.0 * (now - before).as_secs_f64() / elapsed;
        let (ours, theirs) = (share(processor("self"), before.1), share(processor(&server_pid), before.2));
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
