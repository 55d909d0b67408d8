//! Chooses the store by a config string; the code does not change.

#[tokio::main]
async fn main() -> Result<(), onelock::Error> {
    let locker = onelock::open(std::env::var("ONELOCK_URL").unwrap()).await?;
    let guard = locker.acquire("report").await?;
    println!("locked on {}", locker.store());
    guard.release().await?;
    Ok(())
}
