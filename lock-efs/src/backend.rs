//! The backend trait over the file store.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use lock_core::{
    Error, Holder, Lease, LockName, Operation,
    backend::{Attempt, Backend, Claim, Release, Renewal, Watch},
    capabilities::{Capabilities, Pace},
};

use crate::{
    config::{FileConfig, Mode},
    store::Store,
};

/// Locks as files in one directory, held with `flock`.
///
/// Cheap calls on a local file system, made inline: no thread, no task. Dropping it closes all its locks, which frees them; their
/// records then look like a crash to the next holder.
#[derive(Debug)]
pub struct FileBackend {
    store: Store,
    remote: bool,
    /// This process or runtime cannot watch files; there is no use in trying for each waiter.
    cannot_watch: AtomicBool,
    #[cfg(target_os = "linux")]
    queues: Arc<crate::queue::Queues>,
}

impl FileBackend {
    /// Opens `directory`, with its defaults: created when missing, private to this user.
    ///
    /// # Errors
    /// As [`FileConfig::build`].
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, Error> {
        FileConfig::new(directory).build()
    }

    pub(crate) fn new(directory: PathBuf, mode: Mode, remote: bool) -> Self {
        Self {
            store: Store::new(directory, mode),
            remote,
            cannot_watch: AtomicBool::new(false),
            #[cfg(target_os = "linux")]
            queues: Arc::default(),
        }
    }

    /// The file that `flock(1)`, Python's `filelock` and others must lock to exclude holders of `name`, and be excluded by them.
    pub fn lock_path(&self, name: &LockName) -> PathBuf {
        self.store.lock_path(name)
    }

    /// The directory of the lock files.
    pub fn directory(&self) -> &Path {
        self.store.directory()
    }

    /// Where everything that can block passes. Inline, because a local call takes microseconds, and a hop to another thread tens
    /// of them.
    #[expect(clippy::unused_async, reason = "where calls can block, they are made on another thread from here")]
    async fn run<T>(&self, operation: Operation, call: impl FnOnce(&Store) -> Result<T, Error>) -> Result<T, Error> {
        call(&self.store).map_err(|e| e.with_operation(operation).with_store(self.describe()))
    }
}

#[async_trait]
impl Backend for FileBackend {
    fn describe(&self) -> String {
        format!("file://{}", self.store.directory().display())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            ttl: false,
            fencing: true,
            // The kernel keeps a local lock until it is released or closed; only removing its file breaks that.
            loss_signal: !self.remote,
            holder: true,
            inspect: true,
            list: true,
            break_lock: false,
            wake_up: cfg!(target_os = "linux") && !self.remote,
            shared: false,
        }
    }

    fn pace(&self) -> Pace {
        // Short, for the moment between the event of a close and the end of the lock, when a process dies.
        Pace { poll_min: Duration::from_millis(5), ..Pace::default() }
    }

    async fn acquire(&self, claim: &Claim) -> Result<Attempt, Error> {
        self.run(Operation::Acquire, |store| store.acquire(claim)).await.map_err(|e| e.with_name(&claim.name))
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        self.run(Operation::Renew, |store| store.renew(lease)).await.map_err(|e| e.with_name(&lease.name))
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        self.run(Operation::Release, |store| store.release(lease, hold_for)).await.map_err(|e| e.with_name(&lease.name))
    }

    fn release_now(&self, lease: &Lease, hold_for: Duration) -> bool {
        self.store
            .release(lease, hold_for)
            .inspect_err(|error| tracing::warn!(name = %lease.name, %error, "the lock was not released as asked"))
            .is_ok()
    }

    fn descriptor(&self, lease: &Lease) -> Option<OwnedFd> {
        self.store.descriptor(lease)
    }

    async fn watch(&self, name: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        if self.cannot_watch.load(Ordering::Relaxed) {
            return Ok(None);
        }
        self.start_watch(name).await
    }

    async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        self.run(Operation::Inspect, |store| store.inspect(name)).await.map_err(|e| e.with_name(name))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(LockName, Holder)>, Error> {
        self.run(Operation::List, |store| store.list(prefix)).await
    }
}

impl FileBackend {
    #[cfg(target_os = "linux")]
    async fn start_watch(&self, name: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        use crate::watch::{CannotWatch, FileWatch};

        let join =
            |store: &Store| Ok((store.seat(name)?, self.queues.join(name, &store.queue_path(name), store.mode())?));
        let (seat, place) = self.run(Operation::Watch, join).await.map_err(|e| e.with_name(name))?;
        match FileWatch::start(self.lock_path(name), seat, place) {
            Ok(watch) => Ok(Some(Box::new(watch))),
            Err(CannotWatch::Now(error)) => {
                tracing::debug!(%name, %error, "cannot watch the lock file; polling");
                Ok(None)
            }
            Err(CannotWatch::Ever) => {
                tracing::debug!("the runtime has no I/O driver (enable_io); waiting for file locks by polling");
                self.cannot_watch.store(true, Ordering::Relaxed);
                Ok(None)
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unused_async, reason = "the same signature as on Linux")]
    async fn start_watch(&self, _: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        Ok(None)
    }
}
