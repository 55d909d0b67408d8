//! The backend trait over the file store.

use std::{
    io,
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
    Error, ErrorKind, FencingToken, Holder, LockName, Operation,
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Break, Capabilities, Finding, Lease, LeaseId, Listing,
        PastHolder, Process, ProcessBound, Release, Renewal, StoreTimings, Watch,
    },
};

use crate::{
    dir::LockDirectory,
    doctor,
    held::HeldLabels,
    io_pool::{Abandoned, IoPool},
    key::Key,
    medium::file_system::FileSystem,
    mode::Mode,
    names::Names,
    store::FileStore,
};

/// Locks as files in one directory, held with `flock`.
///
/// Calls of a local file system are cheap and made inline. On other file systems any call may hang,
/// so calls have threads of their own. Dropping the backend closes all its locks, which frees them;
/// their records then look like a crash to the next holder.
#[derive(Debug)]
pub struct FileBackend {
    store: Arc<FileStore>,
    file_system: FileSystem,
    /// Threads for the calls of a file system on which any call may hang.
    pool: Option<IoPool>,
    /// This process or runtime cannot watch files; there is no use in trying for each waiter.
    cannot_watch: AtomicBool,
    process: Process,
    #[cfg(target_os = "linux")]
    queues: Arc<crate::wait::queue::FlockQueues>,
    /// The queues of fair requests.
    #[cfg(target_os = "linux")]
    fair_queues: Arc<crate::wait::queue::FlockQueues>,
}

impl FileBackend {
    pub(crate) fn new(directory: LockDirectory, mode: Mode, names: Names) -> Self {
        HeldLabels::describe();
        IoPool::describe();
        let LockDirectory { path, file_system, is_missing } = directory;
        let pool = (file_system != FileSystem::Local).then(|| IoPool::new(names.describe(&path)));
        let store = FileStore::new(path, mode, file_system.medium());
        let store = store.with_names(names).with_missing_directory(is_missing);
        Self {
            store: Arc::new(store),
            pool,
            file_system,
            cannot_watch: AtomicBool::new(false),
            process: Process::current(),
            #[cfg(target_os = "linux")]
            queues: Arc::default(),
            #[cfg(target_os = "linux")]
            fair_queues: Arc::default(),
        }
    }

    /// The file that `flock(1)`, Python's `filelock` and others must lock to exclude holders of
    /// `name`, and be excluded by them. Without a meaning for a name that [`Names::Plain`] refuses.
    pub fn lock_path(&self, name: &LockName) -> PathBuf {
        self.store.lock_path(name)
    }

    pub(crate) fn store(&self) -> &FileStore {
        &self.store
    }

    /// The directory of the lock files.
    pub fn directory(&self) -> &Path {
        self.store.directory()
    }

    /// Where everything that can block passes. A local call is made inline, because it takes
    /// microseconds, and a hop to another thread tens of them.
    async fn run<T: Send + 'static>(
        &self,
        (operation, lane): (Operation, Option<Key>),
        call: impl FnOnce(&FileStore) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let result = match &self.pool {
            _ if !self.process.is_current() => Err(self.opened_elsewhere()),
            None => call(&self.store),
            Some(pool) => {
                let store = Arc::clone(&self.store);
                let abandoned = if operation == Operation::Release { Abandoned::RunAnyway } else { Abandoned::Skip };
                pool.run(lane, abandoned, move || call(&store)).await
            }
        };
        result.map_err(|e| e.with_operation(operation).with_store(self.describe()))
    }
}

impl FileBackend {
    /// Two processes that use one open lock file would both hold its lock.
    fn opened_elsewhere(&self) -> Error {
        let parent = self.process.id();
        let what =
            format!("process {parent} opened this store, and this process was forked from it; open it again here");
        Error::new(ErrorKind::Unsupported, what).with_ambiguous(false)
    }
}

#[async_trait]
impl Backend for FileBackend {
    fn describe(&self) -> String {
        self.store.names().describe(self.store.directory())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
            .with_fencing(true)
            // The kernel keeps a local lock until it is released or closed; only removing its file
            // breaks that.
            .with_loss_signal(self.file_system != FileSystem::Unknown)
            .with_holder(true)
            .with_inspect(true)
            .with_list(true)
            .with_wake_up(cfg!(target_os = "linux") && self.file_system == FileSystem::Local)
            .with_shared(self.file_system.has_modes())
            .with_permits(self.file_system.has_modes())
            .with_fair(self.file_system.has_fair())
            .with_hand_over(true)
    }

    fn timings(&self) -> StoreTimings {
        match &self.file_system {
            FileSystem::Nfs(facts) => nfs_pace(facts.lease),
            // Short, for the moment between the event of a close and the end of the lock, when a
            // process dies.
            _ => StoreTimings::default().with_poll_min(Duration::from_millis(5)),
        }
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        if !self.file_system.has_modes() {
            request.require_exclusive()?;
        }
        let (name, request) = (&request.name, request.clone());
        let lane = Some((request.id, name.clone()));
        self.run((Operation::Acquire, lane), move |store| store.acquire(&request)).await.map_err(|e| e.with_name(name))
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        let (name, lease) = (&lease.name, lease.clone());
        let lane = Some((lease.id, name.clone()));
        self.run((Operation::Renew, lane), move |store| store.renew(&lease)).await.map_err(|e| e.with_name(name))
    }

    async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        let (name, lease) = (&lease.name, lease.clone());
        let lane = Some((lease.id, name.clone()));
        let raise = move |store: &FileStore| store.advance_token(&lease, token);
        self.run((Operation::Acquire, lane), raise).await.map_err(|e| e.with_name(name))
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        let (name, lease) = (&lease.name, lease.clone());
        let lane = Some((lease.id, name.clone()));
        let release = move |store: &FileStore| store.release(&lease, hold_for);
        self.run((Operation::Release, lane), release).await.map_err(|e| e.with_name(name))
    }

    async fn watch(&self, name: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        // No event tells of other hosts.
        if self.file_system != FileSystem::Local || self.cannot_watch.load(Ordering::Relaxed) {
            return Ok(None);
        }
        self.start_watch(name, None).await
    }

    async fn watch_place(&self, request: &AcquireRequest) -> Result<Option<Box<dyn Watch>>, Error> {
        let is_local = self.file_system == FileSystem::Local;
        if !is_local || !self.file_system.has_fair() || self.cannot_watch.load(Ordering::Relaxed) {
            return self.watch(&request.name).await;
        }
        self.start_watch(&request.name, Some(request.id)).await
    }

    fn reopen(&self) -> Result<Arc<dyn Backend>, Error> {
        let directory = LockDirectory {
            path: self.directory().to_owned(),
            file_system: self.file_system.clone(),
            is_missing: self.store.may_create.load(Ordering::Relaxed),
        };
        Ok(Arc::new(Self::new(directory, self.store.mode(), self.store.names())))
    }

    async fn diagnose(&self) -> Vec<Finding> {
        let examined = self.run((Operation::Inspect, None), |store| Ok(doctor::examine(store))).await;
        examined
            .unwrap_or_else(|error| vec![Finding::warning("file system", format!("could not be examined: {error}"))])
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(self)
    }

    fn process_bound(&self) -> Option<&dyn ProcessBound> {
        Some(self)
    }
}

#[async_trait]
impl Admin for FileBackend {
    async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        let wanted = name.clone();
        self.run((Operation::Inspect, None), move |store| store.inspect(&wanted)).await.map_err(|e| e.with_name(name))
    }

    async fn last_holder(&self, name: &LockName) -> Result<Option<PastHolder>, Error> {
        let wanted = name.clone();
        let last = self.run((Operation::Inspect, None), move |store| store.last_holder(&wanted)).await;
        last.map_err(|e| e.with_name(name))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let prefix = prefix.to_owned();
        self.run((Operation::List, None), move |store| store.list(&prefix)).await
    }

    async fn purge(&self, name: &LockName) -> Result<bool, Error> {
        let wanted = name.clone();
        self.run((Operation::Purge, None), move |store| store.purge(&wanted)).await.map_err(|e| e.with_name(name))
    }

    async fn break_lock(&self, name: &LockName, _version: &str, _by: &str) -> Result<Break, Error> {
        let message = "a file lock cannot be broken while its holder lives; stop the holder's process";
        Err(Error::new(ErrorKind::Unsupported, message).with_operation(Operation::Break).with_name(name))
    }
}

impl ProcessBound for FileBackend {
    fn release_now(&self, lease: &Lease, hold_for: Duration) -> bool {
        if !self.process.is_current() {
            return true;
        }
        let release = move |store: &FileStore, lease: &Lease| {
            let released = store.release(lease, hold_for);
            released
                .inspect_err(|error| tracing::warn!(name = %lease.name, %error, "the lock was not released as asked"))
                .is_ok()
        };
        let Some(pool) = &self.pool else { return release(&self.store, lease) };
        if tokio::runtime::Handle::try_current().is_err() {
            // The core may have nothing to release it with.
            let (store, lease) = (Arc::clone(&self.store), lease.clone());
            pool.leave((lease.id, lease.name.clone()), move || {
                release(&store, &lease);
            });
        }
        false
    }

    fn on_lost(&self, lease: &Lease) {
        if !self.process.is_current() {
            return;
        }
        let Some(pool) = &self.pool else { return self.store.on_lost(lease) };
        // Behind a probe that hangs, and so as soon as the server answers again.
        let (store, lease) = (Arc::clone(&self.store), lease.clone());
        pool.leave((lease.id, lease.name.clone()), move || store.on_lost(&lease));
    }

    fn descriptors(&self, lease: &Lease) -> io::Result<Vec<OwnedFd>> {
        if !self.process.is_current() {
            return Ok(Vec::new());
        }
        self.store.descriptors(lease)
    }
}

impl FileBackend {
    /// Starts to watch for `name`, or for the turn of the request `fair`, if that has a place.
    #[cfg(target_os = "linux")]
    async fn start_watch(&self, name: &LockName, fair: Option<LeaseId>) -> Result<Option<Box<dyn Watch>>, Error> {
        use crate::wait::{
            queue,
            watch::{CannotWatch, FairTurn, FileWatch},
        };

        let place = fair.and_then(|id| self.store.place(id, name));
        let (wanted, store) = (name.clone(), Arc::clone(&self.store));
        let queues = Arc::clone(if place.is_some() { &self.fair_queues } else { &self.queues });
        let is_fair = place.is_some();
        let join = move || {
            let files = store.files_of(&wanted);
            match is_fair {
                true => queues.join(&wanted, &files.fair, || store.open_fair(&wanted)),
                false => queues.join(&wanted, &files.queue, || queue::open(&files.queue, store.mode())),
            }
        };
        let wanted = name.clone();
        let begin = move |store: &FileStore| Ok((store.descriptor_slot(&wanted)?, join()?, join));
        let (slot, position, rejoin) =
            self.run((Operation::Watch, None), begin).await.map_err(|e| e.with_name(name))?;
        let turn = place.map(|place| FairTurn::new(place, Box::new(rejoin)));
        match FileWatch::start(self.lock_path(name), slot, position).map(|watch| watch.with_turn(turn)) {
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
    async fn start_watch(&self, _: &LockName, _: Option<LeaseId>) -> Result<Option<Box<dyn Watch>>, Error> {
        Ok(None)
    }
}

/// The shortest lease that servers give, for where the kernel does not tell.
const SHORTEST_LEASE: Duration = Duration::from_secs(10);

/// A probe and a try are one request each, to a server that many hosts share.
fn nfs_pace(lease: Option<Duration>) -> StoreTimings {
    let lease = lease.unwrap_or(SHORTEST_LEASE);
    StoreTimings::default()
        .with_poll_min(Duration::from_millis(100))
        .with_poll_max(Duration::from_secs(2))
        // Often enough that a lock which the server lost by itself is noticed soon; the lease alone
        // would allow far less.
        .with_probe_every((lease / 10).clamp(Duration::from_secs(1), Duration::from_secs(5)))
        .with_lease(lease)
        // NFS states leases in seconds, and a server may count them by a clock that shows only
        // seconds.
        .with_least_margin(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use lock_core::Mode;

    use super::*;

    /// After an error the core releases no id, so the store has to leave nothing.
    #[test]
    // verifies: P5, P12
    fn a_first_attempt_that_fails_leaves_neither_a_mark_nor_a_place() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let (reading, waiting, next) = [(); 3].map(|()| FileBackend::open(dir.path()).expect("it opens")).into();
        let name = LockName::new("job").expect("a name");
        let request = |mode| AcquireRequest::new(name.clone(), LeaseId::random(), "test").with_mode(mode);
        let is_granted = |backend: &FileBackend, request: &AcquireRequest| {
            matches!(backend.store.acquire(request), Ok(AcquireOutcome::Granted(_)))
        };
        assert!(is_granted(&reading, &request(Mode::Shared)));
        for fair in [false, true] {
            let writer = request(Mode::Exclusive).with_waits(true).with_fair(fair);
            let key = (writer.id, name.clone());
            assert!(!is_granted(&waiting, &writer));
            assert!(!is_granted(&next, &request(Mode::Shared)), "the writer waits");
            for (has_waited, is_free) in [(true, false), (false, true)] {
                let failed: Result<(), _> = Err(Error::new(ErrorKind::Limit, "no descriptor is left"));
                waiting.store.leave_nothing(&key, has_waited, failed).expect_err("it returns the error");
                assert_eq!(is_granted(&next, &request(Mode::Shared)), is_free, "fair: {fair}");
            }
        }
    }

    #[test]
    fn probes_are_frequent_enough_for_any_lease() {
        let seconds = Duration::from_secs;
        for (lease, expected, probes) in
            [(Some(10), 10, 1), (Some(30), 30, 3), (Some(90), 90, 5), (Some(600), 600, 5), (None, 10, 1)]
        {
            let pace = nfs_pace(lease.map(seconds));
            assert_eq!((pace.lease, pace.probe_every), (Some(seconds(expected)), seconds(probes)), "{lease:?}");
            assert_eq!(pace.poll_max, seconds(2), "the pages say how often waiters ask");
            assert!(3 * pace.probe_every <= seconds(expected), "two probes may fail");
        }
    }
}
