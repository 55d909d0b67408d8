//! A Lambda function of which one instance works at a time, however often the schedule fires.

use std::{
    env,
    time::{Duration, SystemTime},
};

use lambda_runtime::{Error, LambdaEvent, service_fn};
use onelock::{FencingToken, Locker, TryAcquire};
use serde_json::{Value, json};

/// The part of the invocation's time that is reserved for reporting a lost lock.
const TO_ANSWER: Duration = Duration::from_millis(500);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    // Once per cold start. This sends no request; the first invocation does.
    let locker = &onelock::open(&env::var("ONELOCK_URL")?).await?;
    let name = &env::var("LOCK_NAME")?;
    lambda_runtime::run(service_fn(async |event| handle(locker, name, event).await)).await
}

async fn handle(locker: &Locker, name: &str, event: LambdaEvent<Value>) -> Result<Value, Error> {
    let context = &event.context;
    let left = context.deadline().duration_since(SystemTime::now()).unwrap_or_default();
    // A refused instance prints this owner, and the holder's log contains the same id.
    let owner = format!("{}/{}", context.env_config.function_name, context.request_id);
    let request = locker.lock(name).owner(owner).deadline(left.saturating_sub(TO_ANSWER));
    let guard = match request.try_acquire().await? {
        TryAcquire::Contended(holder) => {
            println!("skipped: {name:?} is held by {holder}");
            return Ok(json!({ "skipped": holder.to_string() }));
        }
        TryAcquire::Acquired(guard) => guard,
    };
    if let Some(crashed) = guard.crashed_holder() {
        println!("took over from {crashed}: what it did may be half done");
    }
    let done = guard.run(work(&event.payload, guard.token())).await;
    if let Err(lost) = &done {
        println!("stopped: {lost}");
    }
    // A release ends all renewals, so that no work is pending while Lambda freezes this instance.
    // The lock itself stays for the rest of `min_hold`.
    if let Err(error) = guard.release().await {
        // An error would make Lambda repeat work that is done.
        println!("the lock stays until its ttl ends: {error}");
    }
    Ok(json!({ "steps": done? }))
}

/// Stands for your work. Each protected write carries the token.
async fn work(payload: &Value, token: Option<FencingToken>) -> u64 {
    let steps = payload["steps"].as_u64().unwrap_or(1);
    let pause = Duration::from_millis(payload["pause_ms"].as_u64().unwrap_or(0));
    for step in 1..=steps {
        println!("step {step} of {steps}, token {token:?}");
        tokio::time::sleep(pause).await;
    }
    steps
}
