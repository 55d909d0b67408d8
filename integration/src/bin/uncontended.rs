//! Acquires and releases a free lock again and again, for a test that counts what that takes:
//! `uncontended CYCLES memory`, `uncontended CYCLES files DIRECTORY`,
//! `uncontended CYCLES redis URL`.

use std::{env, error::Error, sync::Arc};

use lock_core::{
    Locker, TryAcquire,
    backend::{Backend, Release},
    memory::MemoryBackend,
};
use lock_efs::FileBackend;
use lock_redis::{RedisBackend, RedisConfig};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let (cycles, backend): (_, Arc<dyn Backend>) = match arguments[..] {
        [cycles, "memory"] => (cycles, Arc::new(MemoryBackend::new())),
        [cycles, "files", directory] => (cycles, Arc::new(FileBackend::open(directory)?)),
        [cycles, "redis", url] => (cycles, Arc::new(RedisBackend::new(RedisConfig::from_url(url)?)?)),
        _ => return Err("usage: uncontended CYCLES memory|files|redis [DIRECTORY|URL]".into()),
    };
    let locker = Locker::builder(backend).build()?;
    for _ in 0..cycles.parse::<u32>()? {
        let TryAcquire::Acquired(guard) = locker.try_acquire("job").await? else { return Err("it is held".into()) };
        if guard.release().await? != Release::Released {
            return Err("the lock was lost while it was held".into());
        }
    }
    Ok(())
}
