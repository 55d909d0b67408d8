//! Waits for a lock as often as it is told to, and says when it got it: `waiter URL NAME`, or
//! `waiter URL NAME SECONDS` to wait first come, first served, with this ttl.
//!
//! Each line on standard input starts a wait. The program prints `held` if it found the lock held.
//! Once it acquires the lock, it prints the nanoseconds of `CLOCK_MONOTONIC` and the token, and
//! releases the lock. The tests and benchmarks start many waiters, freeze them and kill them.

use std::{
    io::{self, BufRead as _, Write as _},
    sync::{Arc, Once},
    time::Duration,
};

use lock_core::{Holder, Locker, backend::Release};
use lock_redis::{RedisBackend, RedisConfig};
use test_support::monotonic_nanos;

fn say(line: impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{line}")?;
    out.flush()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, name, seconds @ ..] = &arguments[..] else { return Err("waiter URL NAME [SECONDS]".into()) };
    let builder = Locker::builder(Arc::new(RedisBackend::new(RedisConfig::from_url(url)?)?));
    let locker = match seconds.first() {
        Some(seconds) => builder.fair(true).ttl(Duration::from_secs(seconds.parse()?)),
        None => builder,
    }
    .build()?;
    for line in io::stdin().lock().lines() {
        line?;
        let told = Once::new();
        let tell = move |_: &Holder| told.call_once(|| say("held").expect("the parent reads"));
        let guard = locker.lock(name).on_contention(tell).acquire().await?;
        say(format_args!("{} {}", monotonic_nanos(), guard.token().ok_or("Redis has tokens")?))?;
        if guard.release().await? != Release::Released {
            return Err("the lock was lost while it was held".into());
        }
    }
    Ok(())
}
