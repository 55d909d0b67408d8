//! Tries once to acquire a lock, prints the outcome, and holds the lock until its standard input
//! ends. The tests start it, kill it, and give it a wrong clock.
//!
//! `contender ENDPOINT TABLE SCHEMA TAKEOVER SKEW_MS NAME TTL_MS`

use std::{io::Read as _, sync::Arc, time::Duration};

use lock_core::{Locker, TryAcquire};
use lock_dynamo::{DynamoBackend, DynamoConfig, Schema, Takeover};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, table, schema, takeover, skew, name, ttl] = &arguments[..] else {
        return Err("contender ENDPOINT TABLE SCHEMA TAKEOVER SKEW_MS NAME TTL_MS".into());
    };
    let millis = |text: &str| text.parse().map(Duration::from_millis);
    let takeover = if takeover == "observed" { Takeover::Observed } else { Takeover::Absolute };
    let config = DynamoConfig::new(table)
        .schema(schema.parse::<Schema>()?)
        .endpoint(endpoint)
        .region("eu-central-1")
        .credentials("test", "test", None)
        .takeover(takeover)
        .skew_bound(millis(skew)?);
    let locker = Locker::builder(Arc::new(DynamoBackend::new(config))).ttl(millis(ttl)?).build()?;
    match locker.try_acquire(name).await {
        Ok(TryAcquire::Acquired(guard)) => {
            let crashed = guard.crashed_holder().and_then(|holder| holder.owner.as_deref()).unwrap_or("none");
            println!("acquired after {crashed}");
            tokio::select! {
                lost = guard.lost() => println!("{lost}"),
                _ = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())) => {
                    println!("{:?}", guard.release().await?);
                }
            }
        }
        Ok(TryAcquire::Contended(holder)) => println!("held by {holder}"),
        Err(error) => println!("{:?} error: {error}", error.kind()),
    }
    Ok(())
}
