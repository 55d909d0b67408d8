//! One of many processes that contend for one name: `contender DIR NAME ROUNDS RESOURCE`.
//!
//! In each round it acquires the lock, increments the counter in the file RESOURCE, and appends its
//! fencing token to RESOURCE.tokens. The increment loses updates if two processes run it at once.

use std::{
    env, fs,
    io::{self, Write},
    path::Path,
};

use lock_core::{Guard, Locker, backend::Release};
use lock_efs::FileBackend;

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().collect();
    let [_, directory, name, rounds, resource] = args.as_slice() else {
        return Err("usage: contender DIR NAME ROUNDS RESOURCE".into());
    };
    let locker = Locker::new(FileBackend::open(directory)?)?;
    for _ in 0..rounds.parse::<u32>()? {
        let guard = locker.acquire(name).await?;
        count(&guard, Path::new(resource))?;
        match guard.release().await? {
            Release::Released => {}
            Release::NotHeld(_) => return Err("the lock was lost while it was held".into()),
        }
    }
    Ok(())
}

fn count(guard: &Guard, resource: &Path) -> Result<(), Failure> {
    let counter: u64 = match fs::read_to_string(resource) {
        Ok(text) => text.parse()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error.into()),
    };
    fs::write(resource, (counter + 1).to_string())?;
    let token = guard.token().ok_or("files have tokens")?;
    let mut tokens = fs::OpenOptions::new().append(true).create(true).open(resource.with_extension("tokens"))?;
    writeln!(tokens, "{token}")?;
    Ok(())
}
