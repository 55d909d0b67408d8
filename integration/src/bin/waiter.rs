//! Waits for a lock on command, and prints when it acquired it: `waiter onelock|flock DIR NAME`.
//!
//! Each line on standard input begins a wait. The program prints `waiting` when it finds the lock
//! held. After the acquisition it prints the nanoseconds of `CLOCK_MONOTONIC`, and releases the
//! lock.

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
        other => Err(format!("unknown way to wait {other}").into()),
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

/// Blocks in the kernel, which a program that has other work to do cannot.
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
