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

use super::{queue::QueuePosition, slots::DescriptorSlot};

/// Wakes when the lock file is closed, which unlocks it, or removed. Only the first of the
/// processes that wait looks at the file; the others wait to be first.
///
/// A hint only: when a process dies, its descriptors report the close shortly before the kernel
/// ends their lock, so the try that follows at once may come too early, and the core's next poll
/// takes over.
#[derive(Debug)]
pub(crate) struct FileWatch {
    events: Events,
    path: PathBuf,
    _slot: DescriptorSlot,
    /// Given up last: who is first next shall find the lock file as we leave it.
    position: QueuePosition,
}

#[derive(Debug)]
enum Events {
    /// Not first yet.
    NotYet,
    Watched(AsyncFd<Source>),
    /// The file cannot be watched; the core polls.
    Unseen,
}

/// Why there is no watch.
#[derive(Debug)]
pub(crate) enum CannotWatch {
    /// For now: most likely the limit of 128 instances per user is reached.
    Now(Errno),
    /// This runtime has no I/O driver.
    Ever,
}

/// An inotify instance with one watch.
///
/// Closing one takes 5 to 20 ms, in which the kernel waits for its other processors, and the waiter
/// that drops its watch has just got the lock: so that is left to a thread. Keeping it for the next
/// time would use up the 128 instances that a user has for all processes.
#[derive(Debug)]
struct Source {
    inotify: Option<Inotify>,
    watched: WatchDescriptor,
}

impl Source {
    fn new(path: &Path) -> nix::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let watched = add(&inotify, path)?;
        Ok(Self { inotify: Some(inotify), watched })
    }

    fn inotify(&self) -> &Inotify {
        self.inotify.as_ref().expect("only drop takes the instance")
    }

    /// Follows the path to a new file; whether there is one, whose release may have gone unseen.
    fn follow(&mut self, path: &Path) -> bool {
        let Ok(watched) = add(self.inotify(), path) else { return false };
        let before = std::mem::replace(&mut self.watched, watched);
        if before == watched {
            return false;
        }
        // An error says that the kernel was faster, because the old file is gone.
        let _ = self.inotify().rm_watch(before);
        true
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
        // A process that is killed now does not wait for it either.
        let _ = inotify.rm_watch(self.watched);
        // Without a thread it is closed here after all, with the closure.
        let _ = thread::Builder::new()
            .name("onelock-close".into())
            .stack_size(super::STACK_BYTES)
            .spawn(move || drop(inotify));
    }
}

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify().as_fd().as_raw_fd()
    }
}

impl FileWatch {
    /// Watches the lock file at `path`, now or as soon as `position` is first.
    pub(crate) fn start(path: PathBuf, slot: DescriptorSlot, position: QueuePosition) -> Result<Self, CannotWatch> {
        let events = if position.is_first() { Events::Watched(look(&path)?) } else { Events::NotYet };
        Ok(Self { events, path, _slot: slot, position })
    }
}

fn look(path: &Path) -> Result<AsyncFd<Source>, CannotWatch> {
    let source = Source::new(path).map_err(CannotWatch::Now)?;
    // tokio panics where the runtime was built without `enable_io`, and has no way to ask
    // beforehand.
    catch_unwind(AssertUnwindSafe(|| register(source)))
        .map_err(|_| CannotWatch::Ever)?
        .map_err(|e| CannotWatch::Now(e.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)))
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
        let events = match &mut self.events {
            Events::NotYet => {
                self.position.first().await;
                self.events = look(&self.path).map_or_else(
                    |error| {
                        tracing::debug!(?error, "cannot watch the lock file; polling");
                        Events::Unseen
                    },
                    Events::Watched,
                );
                // What was released before this look wakes nobody.
                return;
            }
            Events::Watched(events) => events,
            Events::Unseen => return std::future::pending().await,
        };
        if events.get_mut().follow(&self.path) {
            return;
        }
        loop {
            let Ok(mut ready) = events.readable().await else {
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
