//! Removes the traces of a run from the store and from this machine.

use std::{
    env, fs,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use lock_core::{Error, Locker, TryAcquire};

use super::shared::TortureRun;
use crate::{exit::Failure, probes};

/// Creates the directory of the run, for the journals and resources of its processes.
pub(super) fn create_run_directory(id: &str) -> Result<PathBuf, Failure> {
    let directory = env::temp_dir().join(format!("onelock-torture-{id}"));
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&directory)
        .map_err(|e| Failure::os("creating the directory of the run", e))?;
    Ok(directory)
}

/// The names that a run left in the store.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    /// Locks that were still held after all processes were dead and their leases had expired.
    pub(super) stuck: Vec<String>,
    /// Names that the store did not remove, and why.
    pub(super) kept: Vec<String>,
}

/// Removes the names of this run from the store. The processes are dead, so each lock must become
/// free within `bound`.
pub(super) async fn clean_up(locker: &Locker, run: &TortureRun, bound: Duration) -> Leftovers {
    let end = Instant::now() + bound;
    let mut left = Leftovers::default();
    for name in (0..run.names).map(|index| run.name(index)) {
        let patience = end.saturating_duration_since(Instant::now());
        match purge(locker, &name, patience).await {
            Ok(PurgeOutcome::Purged) => {}
            Ok(PurgeOutcome::Held(holder)) => left.stuck.push(format!("{name}: held by {holder}")),
            Ok(PurgeOutcome::Kept) => left.kept.push(format!("{name}: the store does not remove it")),
            Err(error) => left.kept.push(error.to_string()),
        }
    }
    left
}

enum PurgeOutcome {
    Purged,
    Kept,
    Held(lock_core::Holder),
}

async fn purge(locker: &Locker, name: &str, patience: Duration) -> Result<PurgeOutcome, Error> {
    // The last holder may have been killed, so the lock is acquired after it and released.
    match probes::request(locker, name).acquire_within(patience).await? {
        TryAcquire::Contended(holder) => Ok(PurgeOutcome::Held(holder)),
        TryAcquire::Acquired(guard) => {
            drop(guard.release().await?);
            Ok(if locker.admin().purge(name).await? { PurgeOutcome::Purged } else { PurgeOutcome::Kept })
        }
    }
}
