//! Passes a lock in memory from task to task again and again, for a test that counts what that
//! takes: `handed_over TIMES`.

use std::{env, error::Error, sync::Arc};

use lock_core::{Locker, backend::Release, memory::MemoryBackend};

/// All but one wait, so each release finds a waiter.
const TASKS: u32 = 4;
/// How many hand-overs follow each other before the store is asked again.
const IN_A_ROW: u32 = 1_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let times: u32 = env::args().nth(1).ok_or("usage: handed_over TIMES")?.parse()?;
    let locker = Locker::builder(Arc::new(MemoryBackend::new())).hand_over(IN_A_ROW).build()?;
    let first = locker.acquire("job").await?;
    let tasks = (0..TASKS).map(|_| tokio::spawn(acquire_and_release(locker.clone(), times / TASKS)));
    let tasks: Vec<_> = tasks.collect();
    // They run until they wait.
    tokio::task::yield_now().await;
    let _ = first.release().await?;
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn acquire_and_release(locker: Locker, times: u32) -> Result<(), lock_core::Error> {
    for _ in 0..times {
        let released = locker.acquire("job").await?.release().await?;
        assert_eq!(released, Release::Released, "the lock was lost while it was held");
    }
    Ok(())
}
