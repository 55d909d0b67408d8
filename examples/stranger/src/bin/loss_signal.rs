//! Tells another task when the lock is lost.

#[tokio::main]
async fn main() -> Result<(), onelock::Error> {
    let locker = onelock::open(std::env::var("ONELOCK_URL").unwrap()).await?;
    let guard = locker.acquire("report").await?;
    let signal = guard.loss_signal();
    let writer = tokio::spawn(async move {
        tokio::select! {
            lost = signal.lost() => println!("stopped: {lost}"),
            () = std::future::pending() => {}
        }
    });
    guard.release().await?;
    writer.await.unwrap();
    Ok(())
}
