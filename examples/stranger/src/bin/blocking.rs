//! Locks without an async runtime; the lock is renewed while the thread computes.

use onelock::blocking::{self, TryAcquire};

fn main() -> Result<(), onelock::Error> {
    let locker = blocking::open(std::env::var("ONELOCK_URL").unwrap())?;
    let TryAcquire::Acquired(guard) = locker.try_acquire("report")? else {
        println!("skipped");
        return Ok(());
    };
    println!("worked");
    guard.release()?;
    Ok(())
}
