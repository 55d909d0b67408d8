//! Sends the fencing token along with each protected write.

#[tokio::main]
async fn main() -> Result<(), onelock::Error> {
    let locker = onelock::open("memory:?require=fencing").await?;
    let mut newest = 0;
    for _ in 0..2 {
        let guard = locker.acquire("report").await?;
        let token = guard.require_token()?.get();
        assert!(token > newest, "the resource would refuse this write");
        newest = token;
        guard.release().await?;
    }
    println!("wrote twice");
    Ok(())
}
