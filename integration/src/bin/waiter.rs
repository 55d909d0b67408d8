//! Waits for a lock as often as it is told to, and says when it got it:
//! `waiter onelock|flock DIR NAME`.
//!
//! Each line on standard input begins a wait. It answers `waiting` when it found the lock held,
//! then the nanoseconds of `CLOCK_MONOTONIC` at which it got the lock, and gives it back.

use std::{
    env,
    fs::OpenOptions,
    io::{self, BufRead, Write},
    path::Path,
};

use lock_core::{Locker, backend::Release};
use lock_efs::FileBackend;
use test_support::monotonic_nanos;

type Failure = Box<dyn std::error::Error>;

fn say(line: impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{line}")?;
    out.flush()
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().collect();
    let [_, how, directory, name] = args.as_slice() else { return Err("usage: waiter onelock|flock DIR NAME".into()) };
    match how.as_str() {
        "onelock" => with_onelock(directory, name),
        "flock" => with_flock(&Path::new(directory).join(format!("{name}.lock"))),
        other => Err(format!("no way to wait is called {other}").into()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn with_onelock(directory: &str, name: &str) -> Result<(), Failure> {
    let locker = Locker::new(FileBackend::open(directory)?)?;
    for line in io::stdin().lock().lines() {
        line?;
        let told = std::sync::Once::new();
        let tell = move |_: &lock_core::Holder| told.call_once(|| say("waiting").expect("the parent reads"));
        let guard = locker.lock(name).on_contention(tell).acquire().await?;
        say(monotonic_nanos())?;
        if guard.release().await? != Release::Released {
            return Err("the lock was lost while it was held".into());
        }
    }
    Ok(())
}

/// Blocked in the kernel: what no program that has to do anything else meanwhile can do.
fn with_flock(path: &Path) -> Result<(), Failure> {
    for line in io::stdin().lock().lines() {
        line?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        say("waiting")?;
        file.lock()?;
        say(monotonic_nanos())?;
    }
    Ok(())
}
