//! Takes a lock and releases it, or says who holds it. Settings come from the config string and the
//! AWS environment: `skip 'dynamodb://locks?region=eu-central-1' nightly-etl`

use std::error::Error as _;

use lock_core::{Error, Registry, TryAcquire};
use lock_dynamo::DynamoFactory;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, name] = &arguments[..] else { return Err("skip CONFIG NAME".into()) };
    match skip(config, name).await {
        Ok(what) => println!("{what}"),
        Err(error) => {
            println!("{:?} error: {error}", error.kind());
            for cause in std::iter::successors(error.source(), |&cause| cause.source()) {
                println!("because: {cause}");
            }
        }
    }
    Ok(())
}

async fn skip(config: &str, name: &str) -> Result<String, Error> {
    let locker = Registry::new().with(DynamoFactory).open(config).await?;
    match locker.try_acquire(name).await? {
        TryAcquire::Acquired(guard) => {
            let release = guard.release().await?;
            Ok(format!("acquired, then {release:?}"))
        }
        TryAcquire::Contended(holder) => Ok(format!("skipped: held by {holder}")),
    }
}
