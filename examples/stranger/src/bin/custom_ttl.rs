//! Chooses how long the store keeps the lock of a crashed holder.

use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), onelock::Error> {
    let locker = onelock::open("memory:").await?;
    let guard = locker.lock("report").ttl(Duration::from_secs(10)).acquire().await?;
    println!("valid for {:.0} s", guard.remaining().unwrap().as_secs_f64());
    guard.release().await?;
    Ok(())
}
