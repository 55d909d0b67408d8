//! A held lock, for Python.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use lock_core::{Error, Holder, LossReason, LossSignal, Lost, Release, backend::Process};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pyo3::prelude::*;
use tokio::sync::Mutex;

use crate::{
    answer::{Answer, holder_to_py, lost_to_py, seconds},
    background::CountedGuard,
    bell::Bell,
    engine::Engine,
    events::Event,
    op::{Cell, Op},
    options::duration,
    sys,
};

/// The exit code of a process that stops because it lost its lock, as that of `onelock run`.
const LOST: i32 = 75;

/// A guard. Only the process that acquired the lock can do anything with it.
#[pyclass(frozen, weakref)]
pub(crate) struct CoreGuard {
    /// A renewal borrows it, and the release takes it. `None` after that.
    guard: Option<Arc<Mutex<Option<CountedGuard>>>>,
    signal: LossSignal,
    crashed: Option<Holder>,
    name: String,
    token: Option<u64>,
    owner: String,
    process: Process,
    key: u64,
}

impl CoreGuard {
    pub(crate) fn new(counted: CountedGuard) -> PyResult<Self> {
        static KEYS: AtomicU64 = AtomicU64::new(0);
        let guard = &counted.guard;
        let (signal, key) = (guard.loss_signal(), KEYS.fetch_add(1, Ordering::Relaxed));
        let engine = Engine::here()?;
        let watched = signal.clone();
        engine.runtime.spawn(async move {
            let lost = watched.lost().await;
            if lost.reason != LossReason::Released {
                engine.events.push(Event::Lost(key, lost));
            }
        });
        Ok(Self {
            crashed: guard.crashed_holder().cloned(),
            name: guard.name().as_str().to_owned(),
            token: guard.token().map(|token| token.get()),
            owner: counted.owner.clone(),
            guard: Some(Arc::new(Mutex::new(Some(counted)))),
            signal,
            process: Process::current(),
            key,
        })
    }

    fn lost_now(&self) -> Option<Lost> {
        self.signal.check().err()
    }

    fn guard(&self) -> Arc<Mutex<Option<CountedGuard>>> {
        Arc::clone(self.guard.as_ref().expect("it is taken only by the drop"))
    }
}

#[pymethods]
impl CoreGuard {
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    #[getter]
    fn token(&self) -> Option<u64> {
        self.token
    }

    #[getter]
    fn owner(&self) -> &str {
        &self.owner
    }

    /// The number by which events name this guard.
    #[getter]
    fn key(&self) -> u64 {
        self.key
    }

    #[getter]
    fn crashed(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.crashed.as_ref().map(|holder| holder_to_py(py, holder)).transpose()
    }

    /// Returns the end of the validity in seconds since 1970. `None` if locks do not expire.
    #[getter]
    fn expires_at(&self) -> Option<f64> {
        seconds(self.signal.valid_until().map(|until| until.wall))
    }

    /// Returns the loss, or `None` while the lock is held. Reads only clocks.
    fn lost(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.lost_now().map(|lost| lost_to_py(py, &lost)).transpose()
    }

    fn stopping(&self) -> bool {
        self.signal.is_stopping()
    }

    fn remaining(&self) -> Option<f64> {
        seconds(self.signal.remaining())
    }

    /// Renews if less than `at_least` seconds are left.
    #[pyo3(signature = (at_least, bell=None, key=0))]
    fn ensure(&self, py: Python<'_>, at_least: f64, bell: Option<&Bell>, key: u64) -> PyResult<Op> {
        let at_least = duration(py, "at_least", at_least)?;
        let (guard, signal) = (self.guard(), self.signal.clone());
        Op::start(Cell::new(bell.map(|bell| (bell, key))), async move {
            match &*guard.lock().await {
                Some(counted) => counted.guard.renew_if_below(at_least).await?,
                // Released meanwhile.
                None => signal.check().map_err(Error::from)?,
            }
            Ok(Answer::Done)
        })
    }

    /// Releases the lock; the answer is whether it was still held.
    #[pyo3(signature = (bell=None, key=0))]
    fn release(&self, bell: Option<&Bell>, key: u64) -> PyResult<Op> {
        let cell = Cell::new(bell.map(|bell| (bell, key)));
        if !self.process.is_current() {
            return Op::start(cell, async { Ok(Answer::Release(Release::NotHeld(None))) });
        }
        let guard = self.guard();
        // Taken at once if no renewal has it, so that the guard goes with the operation when that
        // is cancelled.
        let taken = guard.try_lock().ok().and_then(|mut guard| guard.take());
        Op::start(cell, async move {
            let taken = match taken {
                Some(guard) => Some(guard),
                None => guard.lock().await.take(),
            };
            match taken {
                Some(counted) => counted.release().await.map(Answer::Release),
                None => Ok(Answer::Release(Release::NotHeld(None))),
            }
        })
    }

    /// Waits for the loss, or for the release.
    #[pyo3(signature = (bell=None, key=0))]
    fn wait_lost(&self, bell: Option<&Bell>, key: u64) -> PyResult<Op> {
        let signal = self.signal.clone();
        Op::start(Cell::new(bell.map(|bell| (bell, key))), async move { Ok(Answer::Lost(signal.lost().await)) })
    }

    /// Ends this process at the loss, on a native thread: it needs no Python, so it also stops a
    /// process that is stuck in C. With `term`, it sends SIGTERM first, when the work has to stop.
    /// Where locks do not expire, it waits for `grace` seconds after the loss.
    fn end_process_on_loss(&self, py: Python<'_>, term: bool, grace: f64) -> PyResult<()> {
        let (signal, grace) = (self.signal.clone(), duration(py, "grace", grace)?);
        let expires = signal.valid_until().is_some();
        Engine::here()?.runtime.spawn(async move {
            if term && signal.stop_requested().await.reason != LossReason::Released {
                // The process cannot be gone, because this thread is a part of it.
                let _ = kill(Pid::this(), Signal::SIGTERM);
            }
            if signal.lost().await.reason == LossReason::Released {
                return;
            }
            if term && !expires {
                tokio::time::sleep(grace).await;
            }
            sys::exit_now(LOST);
        });
        Ok(())
    }

    /// Releases the lock in the background, also if an operation has it now.
    fn abandon(&self) -> PyResult<()> {
        if !self.process.is_current() {
            return Ok(());
        }
        let guard = self.guard();
        let taken = guard.try_lock().map(|mut guard| guard.take());
        match taken {
            Ok(taken) => drop(taken),
            Err(_) => drop(Engine::here()?.spawn(async move { drop(guard.lock().await.take()) })),
        }
        Ok(())
    }

    #[getter]
    fn is_ours(&self) -> bool {
        self.process.is_current()
    }

    #[getter]
    fn process(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for CoreGuard {
    fn drop(&mut self) {
        let guard = self.guard.take();
        if !self.process.is_current() {
            // The parent's worker may have had its lock at the fork.
            mem::forget((guard, self.signal.clone()));
        }
    }
}
