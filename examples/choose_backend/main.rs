//! The same program on every store; `ONELOCK_URL` chooses the store.

use onelock::TryAcquire;
use tokio::io::{AsyncReadExt as _, stdin};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let locker = onelock::open(&std::env::var("ONELOCK_URL")?).await?;
    match locker.try_acquire("nightly-report").await? {
        TryAcquire::Contended(holder) => println!("skipped: held by {holder}"),
        TryAcquire::Acquired(guard) => {
            println!("working under {}, token {:?}", locker.store(), guard.token());
            // Stands for your work, and lasts until standard input ends.
            guard.run(stdin().read_to_end(&mut Vec::new())).await??;
            println!("done, and {:?}", guard.release().await?);
        }
    }
    Ok(())
}
