//! Drops the work when the lock is lost.

use onelock::memory::MemoryBackend;

#[tokio::main]
async fn main() -> Result<(), onelock::Error> {
    let store = MemoryBackend::new();
    let locker = onelock::Locker::new(store.clone())?;
    let guard = locker.lock("report").ttl(std::time::Duration::from_millis(300)).acquire().await?;
    store.lose("report");
    match guard.run(std::future::pending::<()>()).await {
        Ok(()) => println!("worked"),
        Err(lost) => println!("stopped: {lost}"),
    }
    Ok(())
}
