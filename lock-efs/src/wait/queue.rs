//! Queues the processes that wait for one lock in the kernel, so that a release wakes one of them.
//!
//! The queue is a separate file, `NAME.queue`. The process that holds its `flock` is first. The
//! other processes are blocked in `flock(2)`, each in a thread. The kernel wakes them one at a time
//! and in order.
//!
//! Blocking on the lock file itself would be simpler, but cannot be cancelled. When the waiter goes
//! away, its thread would still take the lock for a moment, and a caller that tries just then would
//! skip its job. Taking and releasing the first position disturbs no caller.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

use lock_core::{Error, LockName};
use nix::fcntl::OFlag;
use tokio::sync::Notify;

use crate::{error, lockfile::LockFile, mode::Mode, sync};

/// The queues that the waiters of this backend have joined.
#[derive(Debug, Default)]
pub(crate) struct FlockQueues {
    /// Positions without a waiter whose threads still wait. The next waiter for the name takes its
    /// position over.
    abandoned: Mutex<HashMap<LockName, Arc<SharedPosition>>>,
}

/// Opens the file `NAME.queue`, which has no content.
pub(crate) fn open(path: &Path, mode: Mode) -> Result<LockFile, Error> {
    let file = LockFile::open(path, mode, OFlag::empty())?;
    if file.was_empty() { Ok(file) } else { Err(error::stranger(path)) }
}

/// A position in a queue.
#[derive(Debug)]
pub(crate) struct QueuePosition {
    queues: Arc<FlockQueues>,
    name: LockName,
    shared: Arc<SharedPosition>,
}

#[derive(Debug)]
struct SharedPosition {
    state: Mutex<PositionState>,
    came: Notify,
}

#[derive(Debug)]
enum PositionState {
    Waiting {
        wanted: bool,
    },
    First {
        _file: Box<LockFile>,
    },
    /// The queue cannot be used; every waiter is first.
    Broken,
}

impl SharedPosition {
    fn new(state: PositionState) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(state), came: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, PositionState> {
        sync::lock(&self.state)
    }
}

impl FlockQueues {
    fn abandoned(&self) -> MutexGuard<'_, HashMap<LockName, Arc<SharedPosition>>> {
        sync::lock(&self.abandoned)
    }

    /// Joins the queue for `name`, whose file at `path` is opened by `open`.
    pub(crate) fn join(
        self: &Arc<Self>,
        name: &LockName,
        path: &Path,
        open: impl FnOnce() -> Result<LockFile, Error>,
    ) -> Result<QueuePosition, Error> {
        let shared = match self.take_over(name) {
            Some(shared) => shared,
            None => self.start(name, open()?, path)?,
        };
        Ok(QueuePosition { queues: Arc::clone(self), name: name.clone(), shared })
    }

    fn take_over(&self, name: &LockName) -> Option<Arc<SharedPosition>> {
        let shared = self.abandoned().remove(name)?;
        let mut state = shared.state();
        let waiting = matches!(*state, PositionState::Waiting { .. });
        if waiting {
            *state = PositionState::Waiting { wanted: true };
        }
        drop(state);
        waiting.then_some(shared)
    }

    fn start(self: &Arc<Self>, name: &LockName, file: LockFile, path: &Path) -> Result<Arc<SharedPosition>, Error> {
        if file.try_lock(path)? {
            return Ok(SharedPosition::new(PositionState::First { _file: Box::new(file) }));
        }
        let shared = SharedPosition::new(PositionState::Waiting { wanted: true });
        let (queues, name, waiting) = (Arc::downgrade(self), name.clone(), Arc::clone(&shared));
        let wait = move || {
            let locked = file.lock_blocking();
            // Under the lock of the map, so that no waiter takes over a position that is about to
            // end.
            let queues = queues.upgrade();
            let mut abandoned = queues.as_ref().map(|queues| queues.abandoned());
            let mut state = waiting.state();
            match (&*state, locked) {
                (PositionState::Waiting { wanted: true }, Ok(())) => {
                    *state = PositionState::First { _file: Box::new(file) }
                }
                _ => *state = PositionState::Broken,
            }
            if let Some(abandoned) = &mut abandoned
                && abandoned.get(&name).is_some_and(|shared| Arc::ptr_eq(shared, &waiting))
            {
                abandoned.remove(&name);
            }
            waiting.came.notify_one();
        };
        // The call ends when the position before it is released, which may be never, so it must not
        // block a thread of the runtime. If no thread can be started, the watch works without a
        // queue.
        if let Err(error) =
            thread::Builder::new().name("onelock-queue".into()).stack_size(super::STACK_BYTES).spawn(wait)
        {
            tracing::debug!(%error, "cannot start a thread for the queue; polling");
            *shared.state() = PositionState::Broken;
        }
        Ok(shared)
    }
}

impl QueuePosition {
    pub(crate) fn is_first(&self) -> bool {
        !matches!(*self.shared.state(), PositionState::Waiting { .. })
    }

    /// Waits until this position is first. Cancel safe.
    pub(crate) async fn first(&self) {
        while !self.is_first() {
            self.shared.came.notified().await;
        }
    }
}

impl Drop for QueuePosition {
    fn drop(&mut self) {
        let mut abandoned = self.queues.abandoned();
        let mut state = self.shared.state();
        match &*state {
            PositionState::Waiting { .. } => {
                *state = PositionState::Waiting { wanted: false };
                abandoned.entry(self.name.clone()).or_insert_with(|| Arc::clone(&self.shared));
            }
            // Closes the file, which makes the next position first.
            _ => *state = PositionState::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use test_support::until;

    use super::*;

    const MODE: Mode = Mode { file: 0o600, directory: 0o700, exact: false };

    /// Returns how many calls of flock(2) wait for the file.
    fn waiting_for(path: &Path) -> usize {
        let file = format!(
            ":{} ",
            std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).expect("the queue file exists"))
        );
        let locks = std::fs::read_to_string("/proc/locks").expect("proc is mounted");
        locks.lines().filter(|line| line.contains("->") && line.contains(&file)).count()
    }

    #[tokio::test]
    async fn positions_become_first_in_order() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("a.queue");
        let name = LockName::new("a").expect("a name");
        let queues: Vec<_> = (0..4).map(|_| Arc::new(FlockQueues::default())).collect();
        let mut positions = Vec::new();
        for queues in &queues {
            let before = positions.len();
            let position = queues.join(&name, &path, || open(&path, MODE)).expect("joining works");
            if !position.is_first() {
                // The order of the queue is the order in which the threads call flock(2).
                until("the thread in flock(2)", async || waiting_for(&path) == before).await;
            }
            positions.push(position);
        }
        for _ in 0..4 {
            assert_eq!(positions.iter().filter(|position| position.is_first()).count(), 1);
            assert!(positions[0].is_first());
            drop(positions.remove(0));
            if let Some(next) = positions.first() {
                next.first().await;
            }
        }
    }

    #[tokio::test]
    async fn an_abandoned_position_is_taken_over_or_given_up() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("b.queue");
        let name = LockName::new("b").expect("a name");
        let (one, other) = (Arc::new(FlockQueues::default()), Arc::new(FlockQueues::default()));
        let first = one.join(&name, &path, || open(&path, MODE)).expect("joining works");
        for _ in 0..10 {
            drop(other.join(&name, &path, || open(&path, MODE)).expect("joining works"));
        }
        let waiting = other.join(&name, &path, || open(&path, MODE)).expect("joining works");
        assert!(other.abandoned().is_empty(), "each waiter took over the one waiting thread");
        drop(waiting);
        assert_eq!(other.abandoned().len(), 1);
        drop(first);
        until("the end of the abandoned position", async || other.abandoned().is_empty()).await;
        let again = one.join(&name, &path, || open(&path, MODE)).expect("joining works");
        again.first().await;
    }
}
