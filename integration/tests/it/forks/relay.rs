//! A fork while the release of a guard goes to the store with the request of the next waiter.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::{Context, Waker},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use lock_core::{
    Error, Guard, Locker, Release,
    backend::{AcquireOutcome, AcquireRequest, Backend, Capabilities, Lease, Relay, Relayed, Renewal, StoreTimings},
    memory::MemoryBackend,
};
use test_support::fork::forked;
use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
};

type Work<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// A store that answers no relay before the test allows it.
#[derive(Debug, Clone)]
struct Relaying {
    locks: MemoryBackend,
    seen: Arc<Seen>,
}

#[derive(Debug)]
struct Seen {
    requests: AtomicU32,
    /// The relays that have ended, also without an answer.
    ended: AtomicU32,
    answers: Semaphore,
}

#[async_trait]
impl Backend for Relaying {
    fn describe(&self) -> String {
        "relaying:".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        self.locks.capabilities().with_wake_up(false)
    }

    fn timings(&self) -> StoreTimings {
        self.locks.timings()
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        self.seen.requests.fetch_add(1, SeqCst);
        self.locks.acquire(request).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        self.locks.renew(lease).await
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        self.seen.requests.fetch_add(1, SeqCst);
        self.locks.release(lease, hold_for).await
    }

    fn relay(&self) -> Option<&dyn Relay> {
        Some(self)
    }
}

#[async_trait]
impl Relay for Relaying {
    async fn relay(&self, lease: &Lease, request: &AcquireRequest) -> Result<Relayed, Error> {
        self.seen.requests.fetch_add(1, SeqCst);
        let _ends = Ends(&self.seen);
        self.seen.answers.acquire().await.expect("it is not closed").forget();
        let released = self.locks.release(lease, Duration::ZERO).await?;
        Ok(Relayed { released, acquired: Some(self.locks.acquire(request).await) })
    }
}

struct Ends<'a>(&'a Seen);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, SeqCst);
    }
}

/// How far a relay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Offered,
    Sent,
    /// The guard and the waiter await the answer.
    Awaited,
    /// The waiter takes the request for lost, and only the guard awaits the answer.
    LeftToTheGuard,
}

/// A relay on the runtime of the test.
struct Pending {
    release: Work<Release>,
    waiter: Work<Guard>,
}

impl Pending {
    fn at(stage: Stage, runtime: &Runtime, locker: &Locker, guard: Guard) -> Self {
        let waiter: Work<Guard> = Box::pin(locker.lock("etl").ttl(Duration::from_secs(2)).acquire());
        let mut pending = Self { release: Box::pin(guard.release()), waiter };
        poll(&mut pending.waiter);
        poll(&mut pending.release);
        if stage >= Stage::Sent {
            poll(&mut pending.waiter);
        }
        if stage >= Stage::Awaited {
            poll(&mut pending.release);
        }
        if stage >= Stage::LeftToTheGuard {
            runtime.block_on(tokio::time::sleep(Duration::from_secs(1)));
            poll(&mut pending.waiter);
            poll(&mut pending.release);
        }
        pending
    }
}

fn poll<T>(work: &mut Work<T>) {
    assert!(work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

#[test]
// verifies: forked
fn a_child_leaves_a_relay_to_its_parent() {
    for stage in [Stage::Offered, Stage::Sent, Stage::Awaited, Stage::LeftToTheGuard] {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _entered = runtime.enter();
        let seen = Arc::new(Seen { requests: 0.into(), ended: 0.into(), answers: Semaphore::new(0) });
        let locker = Locker::new(Relaying { locks: MemoryBackend::new(), seen: Arc::clone(&seen) }).unwrap();
        let guard = runtime.block_on(locker.acquire("etl")).unwrap();
        let (first, signal) = (guard.token(), guard.loss_signal());
        let pending = Pending::at(stage, &runtime, &locker, guard);
        // A task in the background would release.
        let state = || {
            let tasks = runtime.metrics().num_alive_tasks();
            format!("{} requests, {} ended, {tasks} tasks", seen.requests.load(SeqCst), seen.ended.load(SeqCst))
        };
        let before = state();
        let Pending { release, waiter } = thread::scope(|scope| {
            let mut pending = pending;
            let running = Arc::new(());
            let runs = Arc::downgrade(&running);
            // Mutexes that this thread has locked at a fork stay locked in the child.
            scope.spawn(move || {
                while runs.strong_count() > 0 {
                    let _ = signal.check();
                }
            });
            for turn in 0..20 {
                let said;
                (pending, said) = forked(pending, |Pending { release, waiter }| {
                    if turn % 2 == 0 {
                        drop(release);
                        drop(waiter);
                    } else {
                        drop(waiter);
                        drop(release);
                    }
                    state()
                });
                assert_eq!(said, before, "{stage:?}");
            }
            drop(running);
            pending
        });
        seen.answers.add_permits(1);
        let (released, next) = runtime.block_on(async { tokio::join!(release, waiter) });
        assert_eq!(released.unwrap(), Release::Released, "{stage:?}");
        let next = next.unwrap();
        next.check().unwrap();
        assert!(next.token() > first, "{stage:?}");
        assert_eq!(runtime.block_on(next.release()).unwrap(), Release::Released, "{stage:?}");
    }
}
