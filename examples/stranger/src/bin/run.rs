//! Runs work under a lock in one call.

use onelock::TryRun;

#[tokio::main]
async fn main() -> Result<(), onelock::Error> {
    let locker = onelock::open(std::env::var("ONELOCK_URL").unwrap()).await?;
    match locker.try_run("report", async |_guard| println!("worked")).await? {
        TryRun::Ran(()) => {}
        TryRun::Skipped(holder) => println!("skipped: held by {holder}"),
    }
    Ok(())
}
