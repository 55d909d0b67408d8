//! The runtime of this process. Each child made by `fork` gets one of its own.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use lock_core::backend::Process;
use nix::sys::signal::SigSet;
use once_cell::race::OnceBox;
use pyo3::{exceptions::PyOSError, prelude::*};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use crate::events::Events;

/// The runtime and the events of one process. It is never dropped: in a child, dropping the
/// parent's runtime would wait for threads that do not exist there.
pub(crate) struct Engine {
    process: Process,
    pub(crate) runtime: Runtime,
    pub(crate) events: Events,
    /// The number of tasks that may still acquire or release a lock.
    tasks: watch::Sender<usize>,
    /// The engine of a child that was forked from this process.
    next: OnceBox<Self>,
}

/// The first engine. A list, and not a lock around the last one: a fork in another thread would
/// leave the lock locked in the child.
static FIRST: OnceBox<Engine> = OnceBox::new();

impl Engine {
    /// Returns the engine of this process, and starts it at its first use.
    pub(crate) fn here() -> PyResult<&'static Self> {
        let mut place = &FIRST;
        loop {
            match place.get() {
                Some(engine) if engine.process.is_current() => return Ok(engine),
                Some(engine) => place = &engine.next,
                None => {
                    let started = place.get_or_try_init(|| Self::start().map(Box::new));
                    started
                        .map_err(|error| PyOSError::new_err(format!("cannot start the thread of onelock: {error}")))?;
                }
            }
        }
    }

    /// Returns the engine of this process if it has started.
    pub(crate) fn started() -> Option<&'static Self> {
        let mut place = &FIRST;
        loop {
            match place.get()? {
                engine if engine.process.is_current() => return Some(engine),
                engine => place = &engine.next,
            }
        }
    }

    /// Starts a task that [`wait_idle`] waits for, also after it was cancelled.
    pub(crate) fn spawn<F>(&self, work: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let counted = Counted::new(&self.tasks);
        self.runtime.spawn(Task { work: Box::pin(work), counted })
    }

    fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("onelock")
            // Python's own threads handle signals: one that this thread took would not interrupt
            // their system calls.
            .on_thread_start(|| {
                let _ = SigSet::all().thread_block();
            })
            .enable_all()
            .build()?;
        let (process, events, tasks) = (Process::current(), Events::default(), watch::Sender::default());
        Ok(Self { process, runtime, events, tasks, next: OnceBox::new() })
    }
}

/// A task with its count. Its work is dropped first, which may begin a release in the background.
struct Task<F> {
    work: Pin<Box<F>>,
    #[expect(dead_code, reason = "counted until the work is dropped")]
    counted: Counted,
}

impl<F: Future> Future for Task<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.work.as_mut().poll(context)
    }
}

struct Counted(watch::Sender<usize>);

impl Counted {
    fn new(tasks: &watch::Sender<usize>) -> Self {
        tasks.send_modify(|count| *count += 1);
        Self(tasks.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Waits for all operations and all releases in the background, for at most `limit` seconds.
#[pyfunction]
pub(crate) fn wait_idle(py: Python<'_>, limit: f64) {
    let Some(engine) = Engine::started() else { return };
    let limit = Duration::try_from_secs_f64(limit).unwrap_or_default();
    let mut tasks = engine.tasks.subscribe();
    // A release that ends later is not waited for.
    py.detach(|| {
        engine.runtime.block_on(async {
            let _ = timeout(limit, tasks.wait_for(|count| *count == 0)).await;
        });
    });
}
