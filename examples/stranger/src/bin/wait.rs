//! Waits for the lock for a limited time.

use std::time::Duration;

use onelock::TryAcquire;

#[tokio::main]
async fn main() -> Result<(), onelock::Error> {
    let locker = onelock::open(std::env::var("ONELOCK_URL").unwrap()).await?;
    match locker.acquire_within("report", Duration::from_millis(200)).await? {
        TryAcquire::Acquired(guard) => {
            println!("worked");
            guard.release().await?;
        }
        TryAcquire::Contended(holder) => println!("gave up: held by {holder}"),
    }
    Ok(())
}
