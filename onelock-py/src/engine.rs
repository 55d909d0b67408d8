//! The runtime of this process. Each child made by `fork` gets one of its own.

use std::io;

use lock_core::backend::Process;
use nix::sys::signal::SigSet;
use once_cell::race::OnceBox;
use pyo3::{PyResult, exceptions::PyOSError};
use tokio::runtime::{Builder, Runtime};

use crate::events::Events;

/// The runtime and the events of one process. It is never dropped: in a child, dropping the
/// parent's runtime would wait for threads that do not exist there.
pub(crate) struct Engine {
    process: Process,
    pub(crate) runtime: Runtime,
    pub(crate) events: Events,
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
        Ok(Self { process: Process::current(), runtime, events: Events::default(), next: OnceBox::new() })
    }
}
