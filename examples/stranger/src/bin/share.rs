//! Shares one locker among tasks: clones share connections, renewals and queues.

#[tokio::main]
async fn main() -> Result<(), onelock::Error> {
    let locker = onelock::open("memory:").await?;
    let tasks = (0..3).map(|n| {
        let locker = locker.clone();
        tokio::spawn(async move { locker.acquire(format!("report-{n}")).await?.release().await })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap()?;
    }
    println!("three tasks, one locker");
    Ok(())
}
