//! Adds one to the number in a state file, under a lock: `state_file STATE [PAUSE_MS]`.
//!
//! STATE is `s3://BUCKET/KEY` or a path. With `ONELOCK_URL=s3://BUCKET/locks` one bucket has both
//! the state and its lock.

use std::{env, error::Error, fs, io::ErrorKind, path::Path, thread, time::Duration};

use object_store::{
    ObjectStore as _, ObjectStoreExt as _, PutMode, RetryConfig, UpdateVersion,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path as Key,
};
use onelock::{FencingToken, fencing::file};
use serde_json::{Value, json};

type Failure = Box<dyn Error + Send + Sync>;

/// The content of a state, and the version that a conditional write requires.
#[derive(Default)]
struct State {
    runs: u64,
    token: u64,
    version: Option<UpdateVersion>,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [place, pause @ ..] = args.as_slice() else { return Err("usage: state_file STATE [PAUSE_MS]".into()) };
    let locker = onelock::open(&env::var("ONELOCK_URL")?).await?;
    let guard = locker.acquire("state").await?;
    let token = guard.require_token()?;
    let state = read(place).await?;
    guard.check()?;
    println!("locked, token {token}");
    if let [pause] = pause {
        // No check of the lock can prevent this: the thread stops between the check and the write,
        // as if it were swapped out.
        thread::sleep(Duration::from_millis(pause.parse()?));
    }
    let run = state.runs + 1;
    if write(place, state, token).await? {
        println!("written: run {run} with token {token}");
    } else {
        println!("refused: run {run} with token {token}, because {place} was written under a later lock");
    }
    println!("released: {:?}", guard.release().await?);
    Ok(())
}

async fn read(place: &str) -> Result<State, Failure> {
    let (bytes, version) = match bucket(place)? {
        Some((bucket, key)) => match bucket.get(&key).await {
            Ok(found) => {
                let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
                (found.bytes().await?.to_vec(), Some(version))
            }
            Err(object_store::Error::NotFound { .. }) => return Ok(State::default()),
            Err(error) => return Err(error.into()),
        },
        None => match fs::read(place) {
            Ok(bytes) => (bytes, None),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(State::default()),
            Err(error) => return Err(error.into()),
        },
    };
    let state: Value = serde_json::from_slice(&bytes)?;
    let number = |name: &str| state[name].as_u64().ok_or(format!("{place} has no number {name:?}"));
    Ok(State { runs: number("runs")?, token: number("token")?, version })
}

/// Returns whether the state was written. It is not written over that of a later holder.
async fn write(place: &str, seen: State, token: FencingToken) -> Result<bool, Failure> {
    // The token is in the body, so the bytes of two holders differ, and so do their ETags.
    let body = json!({ "runs": seen.runs + 1, "token": token.get() }).to_string();
    let Some((bucket, key)) = bucket(place)? else {
        return match file::replace(Path::new(place), token, body.as_bytes()) {
            Err(error) if file::stale(&error).is_some() => Ok(false),
            done => Ok(done.map(|()| true)?),
        };
    };
    // S3 compares versions only, so the client compares the tokens.
    if seen.token > token.get() {
        return Ok(false);
    }
    let mode = seen.version.map_or(PutMode::Create, PutMode::Update);
    match bucket.put_opts(&key, body.into(), mode.into()).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::Precondition { .. } | object_store::Error::AlreadyExists { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The bucket and the key in `s3://BUCKET/KEY`; `None` if the place is a file.
fn bucket(place: &str) -> Result<Option<(AmazonS3, Key)>, Failure> {
    let Some((name, key)) = place.strip_prefix("s3://").and_then(|rest| rest.split_once('/')) else { return Ok(None) };
    // The library has an HTTP client, but leaves the choice of a TLS provider to the program.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A put that is repeated after a lost reply would be refused by its own effect.
    let retries = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let bucket = AmazonS3Builder::from_env().with_bucket_name(name).with_retry(retries).build()?;
    Ok(Some((bucket, Key::parse(key)?)))
}
