//! Waits for a lock file to be closed by whoever has it open.

use std::{
    os::fd::{AsFd, AsRawFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
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
    watched: Option<WatchDescriptor>,
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

/// An inotify instance that is closed on a thread of its own.
///
/// Closing one waits for the kernel's other processors to forget its marks, 5 to 20 ms, and the waiter that drops its watch has just
/// got the lock.
#[derive(Debug)]
struct Source(Option<Inotify>);

impl Source {
    fn inotify(&self) -> &Inotify {
        self.0.as_ref().expect("only drop takes the instance")
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let inotify = self.0.take();
        // Without a thread it is closed here after all, with the closure.
        let _ = thread::Builder::new().name("dlock-close".into()).stack_size(64 * 1024).spawn(move || drop(inotify));
    }
}

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify().as_fd().as_raw_fd()
    }
}

impl FileWatch {
    pub(crate) fn start(path: PathBuf, seat: Seat) -> Result<Self, CannotWatch> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(CannotWatch::Now)?;
        let source = Source(Some(inotify));
        let watched = add(source.inotify(), &path).map_err(CannotWatch::Now)?;
        // tokio panics where the runtime was built without `enable_io`, and has no way to ask beforehand.
        let events = catch_unwind(AssertUnwindSafe(|| register(source)))
            .map_err(|_| CannotWatch::Ever)?
            .map_err(|e| CannotWatch::Now(e.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)))?;
        Ok(Self { events, path, watched: Some(watched), _seat: seat })
    }

    /// Follows the path to a new file; whether there is one, whose release may have gone unseen.
    fn moved(&mut self) -> bool {
        let watched = add(self.events.get_ref().inotify(), &self.path).ok();
        let moved = watched.is_some() && watched != self.watched;
        self.watched = watched;
        moved
    }

    /// Whether there were events; empties the queue.
    fn drain(source: &Source) -> bool {
        let mut any = false;
        while source.inotify().read_events().is_ok_and(|events| !events.is_empty()) {
            any = true;
        }
        any
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
        if self.moved() {
            return;
        }
        loop {
            let Ok(mut ready) = self.events.readable().await else {
                // The runtime is shutting down; nobody waits for an answer any more.
                return std::future::pending().await;
            };
            let changed = Self::drain(ready.get_inner());
            ready.clear_ready();
            if changed {
                return;
            }
        }
    }
}
