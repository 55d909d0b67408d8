//! Runs calls of file systems that may hang on dedicated threads, always awaited with a timeout.
//!
//! The runtime's own threads for blocking calls do not fit: the runtime waits for them when it
//! shuts down, and their number is limited for the whole program.

mod progress;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::Duration,
};

use lock_core::{Error, ErrorKind};
use metrics::{Unit, describe_gauge};
use tokio::sync::oneshot;

use self::progress::{Progress, WhileWaiting};
use crate::{key::Key, sync};

/// The limit of concurrent calls; further calls are queued. While the network is away, at most one
/// call hangs for each lock. A mount on which so many calls hang does not answer further calls
/// either.
const MAX_THREADS: usize = 32;
/// The stack size of a thread. Records and lists are on the heap, so the usual 2 MiB for each
/// thread would be wasted. Parsing, formatting and the program's tracing subscriber need more than
/// the system calls alone.
const STACK_BYTES: usize = 256 * 1024;
/// How long an idle thread is kept.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// How long opening a store may take.
const OPEN: Duration = Duration::from_secs(30);

/// Calls that run one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Calls for one acquisition. While one hangs, the next calls do not start, and abandoned calls
    /// never start.
    Lock(Key),
    /// A call that is independent of other calls.
    Alone(u64),
}

/// The threads for the calls of one store.
#[derive(Debug, Clone)]
pub(crate) struct IoPool {
    shared: Arc<Shared>,
    /// Tells the threads that the pool is in use.
    _in_use: Arc<()>,
}

#[derive(Debug)]
struct Shared {
    /// The store, as the metrics show it.
    store: Arc<str>,
    work: Mutex<Work>,
    more: Condvar,
    /// How long an idle thread is kept.
    idle_limit: Duration,
    in_use: Weak<()>,
}

#[derive(Default)]
struct Work {
    /// The queued calls of each lane that has queued or running calls.
    lanes: HashMap<Lane, VecDeque<Job>>,
    /// The lanes whose next call may start.
    ready: VecDeque<Lane>,
    threads: usize,
    idle: usize,
    alone: u64,
}

type Job = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").field("lanes", &self.lanes.len()).field("threads", &self.threads).finish_non_exhaustive()
    }
}

/// What happens to a queued call whose future is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abandoned {
    Skip,
    /// The call runs anyway. A release must run even if its caller no longer waits.
    RunAnyway,
}

impl IoPool {
    pub(crate) fn new(store: String) -> Self {
        Self::with_idle_limit(store, IDLE_LIMIT)
    }

    fn with_idle_limit(store: String, idle_limit: Duration) -> Self {
        let token = Arc::new(());
        let (work, more, in_use) = (Mutex::default(), Condvar::new(), Arc::downgrade(&token));
        let shared = Shared { store: store.into(), work, more, idle_limit, in_use };
        Self { shared: Arc::new(shared), _in_use: token }
    }

    /// Gives the recorder the help text.
    pub(crate) fn describe() {
        describe_gauge!("onelock_file_calls_hung", Unit::Count, "Calls on a network file system that do not return.");
    }

    /// Runs `call` after all other calls of `lane` and returns its answer. If this future is
    /// dropped, a running call continues, and counts as hung until it returns.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        lane: Option<Key>,
        abandoned: Abandoned,
        call: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let progress = Progress::new(&self.shared.store);
        let guard = WhileWaiting(progress.clone());
        let job = Box::new(move || {
            if abandoned == Abandoned::Skip && answer.is_closed() {
                return;
            }
            progress.begin();
            let result = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(panicked()));
            progress.end();
            let _ = answer.send(result);
        });
        self.submit(lane, job);
        let result = answered.await;
        drop(guard);
        result.unwrap_or_else(|_| {
            let what = "cannot start a thread for a file-system call; raise the limit (ulimit -u)";
            Err(Error::new(ErrorKind::Limit, what).with_retryable(true).with_ambiguous(false))
        })
    }

    /// Runs `call` without a caller that waits for it.
    pub(crate) fn leave(&self, lane: Key, call: impl FnOnce() + Send + 'static) {
        self.submit(Some(lane), Box::new(call));
    }

    fn submit(&self, lane: Option<Key>, job: Job) {
        let mut work = self.shared.lock();
        work.alone += 1;
        let lane = lane.map_or(Lane::Alone(work.alone), Lane::Lock);
        let before = work.lanes.get_mut(&lane);
        match before {
            Some(queue) => return queue.push_back(job),
            None => drop(work.lanes.insert(lane.clone(), VecDeque::from([job]))),
        }
        work.ready.push_back(lane);
        if work.idle >= work.ready.len() {
            self.shared.more.notify_one();
        } else if work.threads < MAX_THREADS {
            work.threads += 1;
            drop(work);
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new().name("onelock-files".into()).stack_size(STACK_BYTES);
            // All other threads hang or work, and this call must not wait for them.
            if let Err(error) = thread.spawn(move || shared.serve()) {
                tracing::debug!(%error, "cannot start a thread for file-system calls");
                self.shared.start_failed();
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        sync::lock(&self.work)
    }

    /// Runs the calls of ready lanes until the thread has been idle for long.
    ///
    /// The last idle thread stays while the pool is in use. At the limit of processes no thread can
    /// be started for a release, and the lock would stay held until this process ends.
    fn serve(&self) {
        let mut work = self.lock();
        loop {
            let Some(lane) = work.ready.pop_front() else {
                work.idle += 1;
                let waited = self.more.wait_timeout(work, self.idle_limit).unwrap_or_else(PoisonError::into_inner);
                work = waited.0;
                work.idle -= 1;
                let is_needed = work.idle == 0 && self.in_use.strong_count() > 0;
                if waited.1.timed_out() && work.ready.is_empty() && !is_needed {
                    work.threads -= 1;
                    return;
                }
                continue;
            };
            let job = work.lanes.get_mut(&lane).and_then(VecDeque::pop_front);
            drop(work);
            if let Some(job) = job {
                // A panic in one call must not end the thread, which other calls need.
                let _ = catch_unwind(AssertUnwindSafe(job));
            }
            work = self.lock();
            if work.lanes.get(&lane).is_some_and(|queue| !queue.is_empty()) {
                work.ready.push_back(lane);
            } else {
                work.lanes.remove(&lane);
            }
        }
    }

    /// Notes that a thread could not be started. If the pool has no thread, all queued calls are
    /// dropped, and their callers get an error. No release is among them: the call that acquired
    /// the lock left a thread.
    fn start_failed(&self) {
        let mut work = self.lock();
        work.threads -= 1;
        if work.threads == 0 {
            work.ready.clear();
            let dropped = std::mem::take(&mut work.lanes);
            drop(work);
            drop(dropped);
        }
    }
}

fn panicked() -> Error {
    let what = "a file-system call panicked; please report it together with the output on standard error";
    Error::new(ErrorKind::Other, what).with_ambiguous(true)
}

/// Runs one call of `store` on its own thread, with a timeout.
pub(crate) async fn once<T: Send + 'static>(
    store: String,
    call: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let pool = IoPool::new(store);
    tokio::time::timeout(OPEN, pool.run(None, Abandoned::Skip, call)).await.unwrap_or_else(|_| {
        let what = format!("the file system did not answer within {OPEN:?}; check that its server is reachable");
        Err(Error::new(ErrorKind::Timeout, what).with_ambiguous(false))
    })
}
