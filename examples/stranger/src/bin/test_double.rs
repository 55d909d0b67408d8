//! Tests how an application behaves when it loses its lock, on a paused clock.

use std::time::Duration;

use onelock::{Locker, memory::MemoryBackend};

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), onelock::Error> {
    let store = MemoryBackend::new();
    let locker = Locker::new(store.clone())?;
    let guard = locker.acquire("report").await?;
    store.lose_after("report", Duration::from_secs(60));
    let lost = guard.run(tokio::time::sleep(Duration::from_secs(3600))).await.unwrap_err();
    println!("the hour of work stopped: {}", lost.reason);
    Ok(())
}
