//! Processes that wait for one lock queue in the kernel, so that a release wakes one of them and not all.
//!
//! The queue is a file of its own, `NAME.queue`, whose `flock` is the first place. Whoever is not first is blocked in `flock(2)`, in a
//! thread: the kernel wakes one at a time and in order. Blocking on the lock file itself would be simpler but cannot be undone: when its
//! waiter goes away, the thread would take the lock for a moment all the same, and somebody who tries just then
//! would skip a job. Taking and giving back the first place harms nobody.

use std::{
    collections::HashMap,
    fs::File,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

use lock_core::{Error, LockName};
use nix::fcntl::FlockArg;
use tokio::sync::Notify;

use crate::{
    lockfile::{LockFile, flock},
    mode::Mode,
    sync,
};

/// The queues that this backend's waiters stand in.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    /// Places whose waiters have gone, while their threads still wait: the next waiter for the name takes them over.
    abandoned: Mutex<HashMap<LockName, Arc<Turn>>>,
}

/// A place in a queue.
#[derive(Debug)]
pub(crate) struct Place {
    queues: Arc<Queues>,
    name: LockName,
    turn: Arc<Turn>,
}

#[derive(Debug)]
struct Turn {
    state: Mutex<State>,
    came: Notify,
}

#[derive(Debug)]
enum State {
    Waiting {
        wanted: bool,
    },
    First {
        _file: File,
    },
    /// The queue cannot be used; everybody is first.
    Broken,
}

impl Turn {
    fn new(state: State) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(state), came: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.state)
    }
}

impl Queues {
    fn abandoned(&self) -> MutexGuard<'_, HashMap<LockName, Arc<Turn>>> {
        sync::lock(&self.abandoned)
    }

    /// Takes a place in the queue for `name`, whose file is at `path`.
    pub(crate) fn join(self: &Arc<Self>, name: &LockName, path: &Path, mode: Mode) -> Result<Place, Error> {
        let turn = match self.take_over(name) {
            Some(turn) => turn,
            None => self.start(name, LockFile::open(path, mode, false)?, path)?,
        };
        Ok(Place { queues: Arc::clone(self), name: name.clone(), turn })
    }

    fn take_over(&self, name: &LockName) -> Option<Arc<Turn>> {
        let turn = self.abandoned().remove(name)?;
        let mut state = turn.state();
        let waiting = matches!(*state, State::Waiting { .. });
        if waiting {
            *state = State::Waiting { wanted: true };
        }
        drop(state);
        waiting.then_some(turn)
    }

    fn start(self: &Arc<Self>, name: &LockName, file: LockFile, path: &Path) -> Result<Arc<Turn>, Error> {
        if file.try_lock(path)? {
            return Ok(Turn::new(State::First { _file: file.into_file() }));
        }
        let turn = Turn::new(State::Waiting { wanted: true });
        let (queues, name, waiting) = (Arc::downgrade(self), name.clone(), Arc::clone(&turn));
        let wait = move || {
            let file = file.into_file();
            let locked = flock(&file, FlockArg::LockExclusive);
            // Under the lock of the map, so that nobody takes over what is about to end.
            let queues = queues.upgrade();
            let mut abandoned = queues.as_ref().map(|queues| queues.abandoned());
            let mut state = waiting.state();
            match (&*state, locked) {
                (State::Waiting { wanted: true }, Ok(())) => *state = State::First { _file: file },
                _ => *state = State::Broken,
            }
            if let Some(abandoned) = &mut abandoned
                && abandoned.get(&name).is_some_and(|turn| Arc::ptr_eq(turn, &waiting))
            {
                abandoned.remove(&name);
            }
            waiting.came.notify_one();
        };
        // Its call ends when the holder lets go, which may be never: no thread of the runtime is for that.
        // Without a thread there is no queue, and the watch does without.
        if let Err(error) = thread::Builder::new().name("onelock-queue".into()).stack_size(64 * 1024).spawn(wait) {
            tracing::debug!(%error, "no thread to queue with");
            *turn.state() = State::Broken;
        }
        Ok(turn)
    }
}

impl Place {
    pub(crate) fn is_first(&self) -> bool {
        !matches!(*self.turn.state(), State::Waiting { .. })
    }

    /// Waits until this place is the first. Cancel safe.
    pub(crate) async fn first(&self) {
        while !self.is_first() {
            self.turn.came.notified().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut abandoned = self.queues.abandoned();
        let mut state = self.turn.state();
        match &*state {
            State::Waiting { .. } => {
                *state = State::Waiting { wanted: false };
                abandoned.entry(self.name.clone()).or_insert_with(|| Arc::clone(&self.turn));
            }
            // Closes the file, and the next in the queue is first.
            _ => *state = State::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MODE: Mode = Mode { file: 0o600, directory: 0o700, exact: false };

    /// How many calls of flock(2) wait for the file.
    fn waiting_for(path: &Path) -> usize {
        let file = format!(":{} ", std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).expect("it is there")));
        let locks = std::fs::read_to_string("/proc/locks").expect("proc is mounted");
        locks.lines().filter(|line| line.contains("->") && line.contains(&file)).count()
    }

    async fn eventually(what: &str, condition: impl Fn() -> bool) {
        for _ in 0..5_000 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("still not so: {what}");
    }

    #[tokio::test]
    async fn places_become_first_in_order() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("a.queue");
        let name = LockName::new("a").expect("a name");
        let queues: Vec<_> = (0..4).map(|_| Arc::new(Queues::default())).collect();
        let mut places = Vec::new();
        for queues in &queues {
            let before = places.len();
            let place = queues.join(&name, &path, MODE).expect("joining works");
            if !place.is_first() {
                // The order is that of the calls to flock(2), which the threads make.
                eventually("the thread waits", || waiting_for(&path) == before).await;
            }
            places.push(place);
        }
        for _ in 0..4 {
            assert_eq!(places.iter().filter(|place| place.is_first()).count(), 1);
            assert!(places[0].is_first());
            drop(places.remove(0));
            if let Some(next) = places.first() {
                next.first().await;
            }
        }
    }

    #[tokio::test]
    async fn an_abandoned_place_is_taken_over_and_else_given_up() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("b.queue");
        let name = LockName::new("b").expect("a name");
        let (one, other) = (Arc::new(Queues::default()), Arc::new(Queues::default()));
        let first = one.join(&name, &path, MODE).expect("joining works");
        for _ in 0..10 {
            drop(other.join(&name, &path, MODE).expect("joining works"));
        }
        let waiting = other.join(&name, &path, MODE).expect("joining works");
        assert!(other.abandoned().is_empty(), "the one thread that waits was taken over each time");
        drop(waiting);
        assert_eq!(other.abandoned().len(), 1);
        drop(first);
        eventually("the abandoned place is given up", || other.abandoned().is_empty()).await;
        let again = one.join(&name, &path, MODE).expect("joining works");
        again.first().await;
    }
}
