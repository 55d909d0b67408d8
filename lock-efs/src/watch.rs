//! Waits for a lock file to be closed by whoever has it open.

use std::{
    os::fd::{AsFd, AsRawFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use async_trait::async_trait;
use lock_core::backend::Watch;
use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::table::Seat;

/// Wakes when the lock file is closed, which unlocks it, or removed.
///
/// A hint only: when a process dies, its descriptors report the close shortly before the kernel ends their lock, so the try that
/// follows at once may come too early, and the core's next poll takes over.
#[derive(Debug)]
pub(crate) struct FileWatch {
    events: AsyncFd<Source>,
    path: PathBuf,
    _seat: Seat,
}

/// Why there is no watch.
#[derive(Debug)]
pub(crate) enum CannotWatch {
    /// For now: most likely the limit of 128 instances per user is reached.
    Now(Errno),
    /// This runtime has no I/O driver.
    Ever,
}

/// Idle inotify instances, without watches.
///
/// Closing one that had a watch takes 5 to 20 ms, in which the kernel waits for its other processors; and the waiter that drops its
/// watch has just got the lock. Taking the watch out and keeping the instance takes microseconds, and lets a process that is
/// killed end at once.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Vec<Inotify>>);

impl Pool {
    /// A user has only 128 instances for all processes.
    const MOST_IDLE: usize = 8;

    fn idle(&self) -> MutexGuard<'_, Vec<Inotify>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> nix::Result<Inotify> {
        let idle = self.idle().pop();
        idle.map_or_else(|| Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK), Ok)
    }

    fn put(&self, inotify: Inotify) {
        let mut idle = self.idle();
        if idle.len() < Self::MOST_IDLE {
            idle.push(inotify);
            return;
        }
        drop(idle);
        // Without a thread it is closed here after all, with the closure.
        let _ = thread::Builder::new().name("dlock-close".into()).stack_size(64 * 1024).spawn(move || drop(inotify));
    }
}

/// An instance from the pool with one watch, and back again.
#[derive(Debug)]
struct Source {
    pool: Arc<Pool>,
    inotify: Option<Inotify>,
    watched: Option<WatchDescriptor>,
}

impl Source {
    fn new(pool: &Arc<Pool>, path: &Path) -> nix::Result<Self> {
        let mut source = Self { pool: Arc::clone(pool), inotify: Some(pool.take()?), watched: None };
        source.drain();
        source.watched = Some(add(source.inotify(), path)?);
        Ok(source)
    }

    fn inotify(&self) -> &Inotify {
        self.inotify.as_ref().expect("only drop takes the instance")
    }

    /// Follows the path to a new file; whether there is one, whose release may have gone unseen.
    fn follow(&mut self, path: &Path) -> bool {
        let Ok(watched) = add(self.inotify(), path) else { return false };
        let before = self.watched.replace(watched);
        let moved = before != self.watched;
        if let Some(before) = before.filter(|_| moved) {
            // An error says that the kernel was faster, because the old file is gone.
            let _ = self.inotify().rm_watch(before);
        }
        moved
    }

    /// Empties the queue; whether there were events.
    fn drain(&self) -> bool {
        let mut any = false;
        while self.inotify().read_events().is_ok_and(|events| !events.is_empty()) {
            any = true;
        }
        any
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let Some(inotify) = self.inotify.take() else { return };
        if let Some(watched) = self.watched {
            let _ = inotify.rm_watch(watched);
        }
        self.pool.put(inotify);
    }
}

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify().as_fd().as_raw_fd()
    }
}

impl FileWatch {
    pub(crate) fn start(pool: &Arc<Pool>, path: PathBuf, seat: Seat) -> Result<Self, CannotWatch> {
        let source = Source::new(pool, &path).map_err(CannotWatch::Now)?;
        // tokio panics where the runtime was built without `enable_io`, and has no way to ask beforehand.
        let events = catch_unwind(AssertUnwindSafe(|| register(source)))
            .map_err(|_| CannotWatch::Ever)?
            .map_err(|e| CannotWatch::Now(e.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)))?;
        Ok(Self { events, path, _seat: seat })
    }
}

#[allow(
    deprecated,
    reason = "unsound only for types that give up their descriptor; the successor is unsafe and needs tokio 1.54"
)]
fn register(source: Source) -> std::io::Result<AsyncFd<Source>> {
    AsyncFd::with_interest(source, Interest::READABLE)
}

fn add(inotify: &Inotify, path: &Path) -> nix::Result<WatchDescriptor> {
    let mask = AddWatchFlags::IN_CLOSE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_DONT_FOLLOW;
    inotify.add_watch(path, mask)
}

#[async_trait]
impl Watch for FileWatch {
    async fn changed(&mut self) {
        if self.events.get_mut().follow(&self.path) {
            return;
        }
        loop {
            let Ok(mut ready) = self.events.readable().await else {
                // The runtime is shutting down; nobody waits for an answer any more.
                return std::future::pending().await;
            };
            let changed = ready.get_inner().drain();
            ready.clear_ready();
            if changed {
                return;
            }
        }
    }
}
