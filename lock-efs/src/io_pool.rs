//! Runs calls of file systems that may hang on dedicated threads, always awaited with a timeout.
//!
//! The runtime's own threads for blocking calls do not fit: the runtime waits for them when it
//! shuts down, and their number is limited for the whole program.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use lock_core::{Error, ErrorKind};
use metrics::{Gauge, Unit, describe_gauge, gauge};
use tokio::sync::oneshot;

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
const IDLE: Duration = Duration::from_secs(10);
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
#[derive(Debug, Clone, Default)]
pub(crate) struct IoPool(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// The store, as the metrics show it.
    store: Arc<str>,
    work: Mutex<Work>,
    more: Condvar,
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
        Self(Arc::new(Shared { store: store.into(), ..Shared::default() }))
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
        let progress = Progress::new(&self.0.store);
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
        let mut work = self.0.lock();
        work.alone += 1;
        let lane = lane.map_or(Lane::Alone(work.alone), Lane::Lock);
        let before = work.lanes.get_mut(&lane);
        match before {
            Some(queue) => return queue.push_back(job),
            None => drop(work.lanes.insert(lane.clone(), VecDeque::from([job]))),
        }
        work.ready.push_back(lane);
        if work.idle >= work.ready.len() {
            self.0.more.notify_one();
        } else if work.threads < MAX_THREADS {
            work.threads += 1;
            drop(work);
            let shared = Arc::clone(&self.0);
            let thread = thread::Builder::new().name("onelock-files".into()).stack_size(STACK_BYTES);
            // All other threads hang or work, and this call must not wait for them.
            if let Err(error) = thread.spawn(move || shared.serve()) {
                tracing::debug!(%error, "cannot start a thread for file-system calls");
                self.0.start_failed();
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        sync::lock(&self.work)
    }

    /// Runs the calls of ready lanes until the thread has been idle for [`IDLE`].
    fn serve(&self) {
        let mut work = self.lock();
        loop {
            let Some(lane) = work.ready.pop_front() else {
                work.idle += 1;
                let waited = self.more.wait_timeout(work, IDLE).unwrap_or_else(PoisonError::into_inner);
                work = waited.0;
                work.idle -= 1;
                if waited.1.timed_out() && work.ready.is_empty() {
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

    /// Notes that a thread could not be started. If no thread is left, all queued calls are
    /// dropped, and their callers get an error.
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

/// The progress of a call, for counting hung calls.
#[derive(Debug, Clone)]
struct Progress {
    state: Arc<Mutex<CallState>>,
    store: Arc<str>,
}

#[derive(Debug)]
enum CallState {
    Queued,
    Running(Instant),
    /// Still running, but its caller no longer waits.
    Hung(Instant),
    Done,
}

impl Progress {
    fn new(store: &Arc<str>) -> Self {
        Self { state: Arc::new(Mutex::new(CallState::Queued)), store: Arc::clone(store) }
    }

    fn hung(&self) -> Gauge {
        gauge!("onelock_file_calls_hung", "store" => Arc::clone(&self.store))
    }

    fn state(&self) -> MutexGuard<'_, CallState> {
        sync::lock(&self.state)
    }

    fn begin(&self) {
        *self.state() = CallState::Running(Instant::now());
    }

    fn end(&self) {
        if let CallState::Hung(since) = std::mem::replace(&mut *self.state(), CallState::Done) {
            self.hung().decrement(1.0);
            tracing::info!(after = ?since.elapsed(), "hung file-system call returned");
        }
    }
}

/// Counts the call as hung if it still runs when its caller stops waiting.
struct WhileWaiting(Progress);

impl Drop for WhileWaiting {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if let CallState::Running(since) = *state {
            *state = CallState::Hung(since);
            self.0.hung().increment(1.0);
            tracing::warn!(
                since = ?since.elapsed(),
                "file-system call hangs; it continues on its own thread (is the NFS server reachable?)"
            );
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use lock_core::{LockName, backend::LeaseId};

    use super::*;

    fn key(n: u128) -> Key {
        (LeaseId::from(n), LockName::new("etl").expect("a name"))
    }

    /// Returns a call that reports its start and then waits for a message.
    fn hanging() -> (impl FnOnce() -> Result<u32, Error> + Send, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let ((begun, has_begun), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel());
        let call = move || {
            let _ = begun.send(());
            let _ = may_go_on.recv();
            Ok(1)
        };
        (call, has_begun, go_on)
    }

    #[tokio::test]
    async fn a_hanging_call_delays_only_its_own_lock() {
        let pool = IoPool::default();
        let (call, begun, go_on) = hanging();
        let first = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(Some(key(1)), Abandoned::Skip, call).await }
        });
        tokio::task::spawn_blocking(move || begun.recv()).await.unwrap().unwrap();
        assert_eq!(pool.run(Some(key(2)), Abandoned::Skip, || Ok(2)).await.unwrap(), 2);
        let second = pool.run(Some(key(1)), Abandoned::Skip, || Ok(3));
        assert!(
            tokio::time::timeout(Duration::from_millis(50), second).await.is_err(),
            "the second call is queued behind the first"
        );
        go_on.send(()).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), 1);
    }

    #[tokio::test]
    async fn an_abandoned_probe_is_skipped_but_a_release_runs() {
        let pool = IoPool::default();
        let (call, begun, go_on) = hanging();
        let (said, heard) = mpsc::channel();
        let first = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(Some(key(1)), Abandoned::Skip, call).await }
        });
        tokio::task::spawn_blocking(move || begun.recv()).await.unwrap().unwrap();
        for (what, abandoned) in [("probe", Abandoned::Skip), ("release", Abandoned::RunAnyway)] {
            let said = said.clone();
            let call = move || {
                said.send(what).expect("the test receives");
                Ok(())
            };
            let limit = Duration::from_millis(20);
            assert!(tokio::time::timeout(limit, pool.run(Some(key(1)), abandoned, call)).await.is_err());
        }
        first.abort();
        go_on.send(()).unwrap();
        let heard = tokio::task::spawn_blocking(move || heard.recv()).await.unwrap();
        assert_eq!(heard, Ok("release"));
    }

    #[tokio::test]
    async fn threads_are_bounded_and_queued_calls_run_later() {
        let pool = IoPool::default();
        let hung: Vec<_> = (0..MAX_THREADS as u128 + 5)
            .map(|n| {
                let (call, begun, go_on) = hanging();
                let pool = pool.clone();
                (tokio::spawn(async move { pool.run(Some(key(n)), Abandoned::Skip, call).await }), begun, go_on)
            })
            .collect();
        tokio::task::yield_now().await;
        let one = tokio::time::timeout(Duration::from_millis(50), pool.run(None, Abandoned::Skip, || Ok(())));
        assert!(one.await.is_err(), "all threads are taken");
        assert_eq!(pool.0.lock().threads, MAX_THREADS);
        for (task, _begun, go_on) in hung {
            let _ = go_on.send(());
            task.await.unwrap().unwrap();
        }
        pool.run(None, Abandoned::Skip, || Ok(())).await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_in_a_call_is_an_error_and_the_pool_survives() {
        let pool = IoPool::default();
        let panics = pool.run(Some(key(1)), Abandoned::Skip, || -> Result<(), Error> { panic!("a bug in a call") });
        let error = panics.await.unwrap_err();
        assert!(error.to_string().contains("panicked") && error.is_ambiguous(), "{error}");
        pool.run(Some(key(1)), Abandoned::Skip, || Ok(())).await.unwrap();
    }
}
