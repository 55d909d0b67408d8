//! Acquires and releases a free lock again and again, for a test that counts what that takes:
//! `uncontended CYCLES MODE memory`, `uncontended CYCLES MODE files DIRECTORY`, and
//! `uncontended CYCLES MODE STORE URL` for `redis`, `postgres` and `dynamodb`, where it creates a
//! missing table. The modes are `exclusive`, `shared`, `permit`, and `fair`,
//! which is an exclusive lock with the option `fair`.

use std::{env, error::Error, num::NonZeroU16, sync::Arc};

use lock_core::{
    ConfigString, Locker, Mode, TryAcquire,
    backend::{Backend, Release},
    memory::MemoryBackend,
};
use lock_dynamo::{DynamoBackend, DynamoConfig, TableOptions};
use lock_efs::FileBackend;
use lock_postgres::{PostgresBackend, PostgresConfig};
use lock_redis::{RedisBackend, RedisConfig};

const USAGE: &str = "usage: uncontended CYCLES exclusive|shared|permit|fair memory|files|redis|postgres|dynamodb \
    [DIRECTORY|URL]";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let [cycles, mode, ref store @ ..] = arguments[..] else { return Err(USAGE.into()) };
    let backend: Arc<dyn Backend> = match *store {
        ["memory"] => Arc::new(MemoryBackend::new()),
        ["files", directory] => Arc::new(FileBackend::open(directory)?),
        ["redis", url] => Arc::new(RedisBackend::new(RedisConfig::from_url(url)?)?),
        ["postgres", url] => {
            let backend = PostgresBackend::new(PostgresConfig::from_url(url)?)?;
            backend.init().await?;
            Arc::new(backend)
        }
        ["dynamodb", url] => {
            let backend = DynamoBackend::new(DynamoConfig::take(&mut ConfigString::parse(url)?.into())?);
            backend.init(&TableOptions::default()).await?;
            Arc::new(backend)
        }
        _ => return Err(USAGE.into()),
    };
    let (mode, fair) = match mode {
        "exclusive" => (Mode::Exclusive, false),
        "shared" => (Mode::Shared, false),
        "permit" => (Mode::Permit { of: NonZeroU16::new(4).expect("not zero") }, false),
        "fair" => (Mode::Exclusive, true),
        _ => return Err(USAGE.into()),
    };
    let locker = Locker::builder(backend).build()?;
    for _ in 0..cycles.parse::<u32>()? {
        let request = locker.lock("job").mode(mode).fair(fair);
        let TryAcquire::Acquired(guard) = request.try_acquire().await? else { return Err("it is held".into()) };
        if guard.release().await? != Release::Released {
            return Err("the lock was lost while it was held".into());
        }
    }
    Ok(())
}
