//! After a torture nothing stays behind: neither in the store nor on this machine.

use std::{
    env, fs,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use lock_core::{Error, Locker, TryAcquire};

use super::Run;
use crate::cli::{exit::Failure, trials};

/// A directory of this run's own, for what the processes note.
pub(super) fn own_directory(id: &str) -> Result<PathBuf, Failure> {
    let directory = env::temp_dir().join(format!("onelock-torture-{id}"));
    fs::DirBuilder::new().mode(0o700).create(&directory).map_err(|e| Failure::os("making a directory", e))?;
    Ok(directory)
}

/// What a run left in the store.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Locks that were still held when all processes were dead and their leases over.
    pub(super) stuck: Vec<String>,
    /// Names that the store did not forget, and why.
    pub(super) kept: Vec<String>,
}

/// Has the store forget the names of this run. Their processes are dead: within `bound` each lock must be free.
pub(super) async fn clean_up(locker: &Locker, run: &Run, bound: Duration) -> Left {
    let end = Instant::now() + bound;
    let mut left = Left::default();
    for name in (0..run.names).map(|index| run.name(index)) {
        let patience = end.saturating_duration_since(Instant::now());
        match forget(locker, &name, patience).await {
            Ok(Forgotten::Yes) => {}
            Ok(Forgotten::Held(holder)) => left.stuck.push(format!("{name}: held by {holder}")),
            Ok(Forgotten::No) => left.kept.push(format!("{name}: the store keeps it")),
            Err(error) => left.kept.push(error.to_string()),
        }
    }
    left
}

enum Forgotten {
    Yes,
    No,
    Held(lock_core::Holder),
}

async fn forget(locker: &Locker, name: &str, patience: Duration) -> Result<Forgotten, Error> {
    // The last holder may have been killed: take the lock after it, and give it back.
    match trials::request(locker, name).acquire_within(patience).await? {
        TryAcquire::Held(holder) => Ok(Forgotten::Held(holder)),
        TryAcquire::Acquired(guard) => {
            drop(guard.release().await?);
            Ok(if locker.forget(name).await? { Forgotten::Yes } else { Forgotten::No })
        }
    }
}
