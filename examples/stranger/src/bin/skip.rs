//! Skips the work when another process does it.

use onelock::TryAcquire;

#[tokio::main]
async fn main() -> Result<(), onelock::Error> {
    let locker = onelock::open(std::env::var("ONELOCK_URL").unwrap()).await?;
    let TryAcquire::Acquired(guard) = locker.try_acquire("report").await? else {
        println!("skipped");
        return Ok(());
    };
    println!("worked");
    guard.release().await?;
    Ok(())
}
