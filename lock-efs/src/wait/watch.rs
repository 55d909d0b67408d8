//! Waits until any process closes a lock file.

use std::{
    fmt,
    os::fd::{AsFd, AsRawFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use async_trait::async_trait;
use lock_core::{Error, backend::Watch};
use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{queue::QueuePosition, slots::DescriptorSlot};
use crate::fair::Place;

/// Wakes when the lock file is closed, which unlocks it, or removed. Only the first process in the
/// queue watches the file; the other processes wait to be first.
///
/// A wake-up is only a hint. When a process dies, the close is reported shortly before the kernel
/// ends the lock. A try at that moment may be refused, and the core's next poll then acquires the
/// lock.
#[derive(Debug)]
pub(crate) struct FileWatch {
    events: Events,
    path: PathBuf,
    _slot: DescriptorSlot,
    /// The turn of a fair request.
    turn: Option<FairTurn>,
    /// Dropped last, so that the next first process sees the lock file in its final state. `None`
    /// while the others go first.
    position: Option<QueuePosition>,
}

/// The place of a fair request, whose order counts, beside its position in the queue of the kernel.
///
/// The two orders differ for example after a process was stopped: the kernel then puts it last. The
/// first in the kernel's order lets the others go first while it is not its turn, so that the right
/// one is woken. It does so once for each request that it waits for, and again after a release. Not
/// all the time, because that request may not listen.
///
/// It joins the others again with the next call, after an attempt of the core. If it joined at
/// once, it could be first again before the kernel runs the others.
pub(crate) struct FairTurn {
    place: Arc<Place>,
    rejoin: Rejoin,
    /// The byte of the place for which the others went first.
    passed_for: Option<u64>,
}

/// Joins the queue of the kernel at its end.
type Rejoin = Box<dyn Fn() -> Result<QueuePosition, Error> + Send + Sync>;

impl fmt::Debug for FairTurn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairTurn").field("place", &self.place).finish_non_exhaustive()
    }
}

impl FairTurn {
    pub(crate) fn new(place: Arc<Place>, rejoin: Rejoin) -> Self {
        Self { place, rejoin, passed_for: None }
    }

    /// Returns whether the others are to go first.
    fn is_not_yet(&mut self) -> bool {
        let Ok(Some(ahead)) = self.place.ahead() else { return false };
        self.passed_for.replace(ahead.byte) != Some(ahead.byte)
    }
}

#[derive(Debug)]
enum Events {
    /// The position is not first yet.
    NotYet,
    Watched(AsyncFd<Source>),
    /// The file cannot be watched; the core polls.
    Unseen,
}

/// The reason why no watch could start.
#[derive(Debug)]
pub(crate) enum CannotWatch {
    /// A temporary failure, most likely the limit of 128 inotify instances per user.
    Now(Errno),
    /// A permanent failure: this runtime has no I/O driver.
    Ever,
}

/// An inotify instance with one watch.
///
/// Closing an instance takes 5 to 20 ms, because the kernel waits for its other processors. The
/// waiter that drops its watch has just acquired the lock, so a thread closes the instance. Keeping
/// instances for reuse would exhaust the 128 that a user has for all processes.
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

    /// Watches the file that the path names now. Returns whether it is a new file, whose release
    /// may have been missed.
    fn follow(&mut self, path: &Path) -> bool {
        let Ok(watched) = add(self.inotify(), path) else { return false };
        let before = std::mem::replace(&mut self.watched, watched);
        if before == watched {
            return false;
        }
        // An error means that the old file is gone and the kernel removed its watch already.
        let _ = self.inotify().rm_watch(before);
        true
    }

    /// Reads all queued events. Returns whether there were any.
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
        // Removed first, so that a process that is killed now does not wait either.
        let _ = inotify.rm_watch(self.watched);
        // If no thread can be started, dropping the closure closes the instance here.
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
        Ok(Self { events, path, _slot: slot, turn: None, position: Some(position) })
    }

    /// Watches for the turn of a fair request.
    pub(crate) fn with_turn(self, turn: Option<FairTurn>) -> Self {
        Self { turn, ..self }
    }
}

fn look(path: &Path) -> Result<AsyncFd<Source>, CannotWatch> {
    let source = Source::new(path).map_err(CannotWatch::Now)?;
    // tokio panics if the runtime was built without `enable_io`, and offers no check for that.
    catch_unwind(AssertUnwindSafe(|| register(source)))
        .map_err(|_| CannotWatch::Ever)?
        .map_err(|e| CannotWatch::Now(e.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)))
}

#[allow(
    deprecated,
    reason = "unsound only for types that release their descriptor; the successor is unsafe and needs tokio 1.54"
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
        if let Some(turn) = &mut self.turn {
            if matches!(self.events, Events::Watched(_)) && turn.is_not_yet() {
                self.events = Events::NotYet;
                self.position = None;
                return std::future::pending().await;
            }
            if self.position.is_none() {
                let rejoined = (turn.rejoin)();
                self.position = rejoined.inspect_err(|error| tracing::debug!(%error, "cannot queue; polling")).ok();
            }
        }
        let events = match &mut self.events {
            Events::NotYet => {
                let Some(position) = &self.position else { return std::future::pending().await };
                position.first().await;
                self.events = look(&self.path).map_or_else(
                    |error| {
                        tracing::debug!(?error, "cannot watch the lock file; polling");
                        Events::Unseen
                    },
                    Events::Watched,
                );
                // A release before this watch started causes no event.
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
                // The runtime is shutting down, and no task awaits an answer any more.
                return std::future::pending().await;
            };
            let changed = ready.get_inner().drain();
            ready.clear_ready();
            if changed {
                if let Some(turn) = &mut self.turn {
                    turn.passed_for = None;
                }
                return;
            }
        }
    }
}
