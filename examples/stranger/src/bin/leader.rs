//! Leads while it holds the lock, until Ctrl-C or the loss of the lead.

use onelock::{LeaderElection, Leadership};

#[tokio::main]
async fn main() -> Result<(), onelock::Error> {
    let locker = onelock::open("memory:").await?;
    let mut election = LeaderElection::new(locker.lock("scheduler"));
    loop {
        tokio::select! {
            event = election.next() => match event? {
                Leadership::Elected(_) => break println!("leading"),
                Leadership::Lost(lost) => println!("following: {lost}"),
            },
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    election.resign().await?;
    Ok(())
}
