//! Removes the traces of a run from the store and from this machine.

use std::{
    env, fs,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use lock_core::{Error, Locker, TryAcquire};
use tokio::time::sleep;

use super::shared::TortureRun;
use crate::{exit::Failure, probes};

/// How long to wait between two attempts to remove a name that the store keeps.
const PAUSE: Duration = Duration::from_millis(50);

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
/// free, and its name removable, within `bound`.
pub(super) async fn clean_up(locker: &Locker, run: &TortureRun, bound: Duration) -> Leftovers {
    let end = Instant::now() + bound;
    let mut left = Leftovers::default();
    for name in (0..run.names).map(|index| run.name(index)) {
        match purge(locker, &name, end).await {
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

/// Tries to remove a name until `end`. A store keeps the name while a dead process has a place in
/// its queue, or until a lock that its late request has acquired expires.
async fn purge(locker: &Locker, name: &str, end: Instant) -> Result<PurgeOutcome, Error> {
    loop {
        // The last holder may have been killed, so the lock is acquired after it and released.
        let patience = end.saturating_duration_since(Instant::now());
        match probes::request(locker, name).acquire_within(patience).await? {
            TryAcquire::Contended(holder) => return Ok(PurgeOutcome::Held(holder)),
            TryAcquire::Acquired(guard) => drop(guard.release().await?),
        }
        if locker.admin().purge(name).await? {
            return Ok(PurgeOutcome::Purged);
        }
        if Instant::now() >= end {
            return Ok(PurgeOutcome::Kept);
        }
        sleep(PAUSE).await;
    }
}

#[cfg(all(test, feature = "redis"))]
mod tests {
    use test_support::redis::RedisServer;

    use super::*;
    use crate::store::StoreLocation;

    /// What a shared request leaves that is killed while it waits for an exclusive holder.
    const OF_A_DEAD_WAITER: &str = "0123456789abcdef0123456789abcdef s x";

    #[tokio::test]
    async fn a_name_is_removed_once_the_wait_of_a_dead_process_has_ended() {
        let server = RedisServer::start();
        let locker = StoreLocation::Url(format!("redis://{}", server.addr())).open().await.unwrap();
        let directory = PathBuf::new();
        let run = TortureRun { directory, prefix: "x/".into(), names: 1, ttl: Duration::from_secs(1) };
        server.command(&["SET", "onelock:{x/0}:m", OF_A_DEAD_WAITER, "PX", "1500"]);
        let left = clean_up(&locker, &run, Duration::from_secs(60)).await;
        assert!(left.stuck.is_empty() && left.kept.is_empty(), "{left:?}");
    }
}
