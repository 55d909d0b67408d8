//! One operation that runs on the engine while Python waits, or does something else.

use std::{
    any::Any,
    mem,
    panic::AssertUnwindSafe,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use lock_core::{Error, ErrorKind, Holder, backend::Process};
use pyo3::prelude::*;
use tokio::task::AbortHandle;

use crate::{
    answer::{Answer, holder_to_py},
    bell::{Bell, Ringer},
    engine::Engine,
    errors,
};

/// A pending operation. Dropping it cancels it, so a signal handler that raises at any moment
/// leaves nothing behind.
#[pyclass(frozen, weakref)]
pub(crate) struct Op {
    cell: Arc<Cell>,
    task: AbortHandle,
    process: Process,
}

/// What the operation and the thread that waits for it share.
pub(crate) struct Cell {
    state: Mutex<State>,
    changed: Condvar,
    bell: Option<(Arc<Ringer>, u64)>,
}

struct State {
    stage: Stage,
    /// The latest holder that the acquisition has met, until Python takes it.
    contended: Option<Holder>,
}

enum Stage {
    Pending,
    Ready(Box<Result<Answer, Error>>),
    /// The answer was taken, or the operation was cancelled.
    Gone,
}

impl Cell {
    pub(crate) fn new(bell: Option<(&Bell, u64)>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { stage: Stage::Pending, contended: None }),
            changed: Condvar::new(),
            bell: bell.map(|(bell, key)| (bell.ringer(), key)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.notify_all();
        if let Some((bell, key)) = &self.bell {
            bell.ring(*key);
        }
    }

    /// Notes a holder that the acquisition has met.
    pub(crate) fn note_contended(&self, holder: &Holder) {
        let mut state = self.lock();
        if matches!(state.stage, Stage::Pending) {
            state.contended = Some(holder.clone());
            drop(state);
            self.tell();
        }
    }

    fn finish(&self, answer: Result<Answer, Error>) {
        let mut state = self.lock();
        if matches!(state.stage, Stage::Gone) {
            // A guard in the answer is dropped, and so released, without the lock.
            drop(state);
            return drop(answer);
        }
        state.stage = Stage::Ready(Box::new(answer));
        drop(state);
        self.tell();
    }
}

impl Op {
    /// Starts `work`, whose answer goes into `cell`.
    pub(crate) fn start(
        cell: Arc<Cell>,
        work: impl Future<Output = Result<Answer, Error>> + Send + 'static,
    ) -> PyResult<Self> {
        let engine = Engine::here()?;
        let finished = Arc::clone(&cell);
        let task = engine.spawn(async move {
            let answer = AssertUnwindSafe(work).catch_unwind().await;
            finished.finish(answer.unwrap_or_else(|panic| Err(panicked(&*panic))));
        });
        Ok(Self { cell, task: task.abort_handle(), process: Process::current() })
    }

    fn stop(&self) {
        if !self.process.is_current() {
            return;
        }
        self.task.abort();
        let mut state = self.cell.lock();
        let stage = mem::replace(&mut state.stage, Stage::Gone);
        drop(state);
        drop(stage);
    }

    fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        if self.process.is_current() {
            return Ok(());
        }
        let parent = self.process.id();
        let message = format!("this operation belongs to process {parent}, and this process was forked from that one");
        Err(errors::to_py(py, &Error::new(ErrorKind::Other, message)))
    }
}

#[pymethods]
impl Op {
    /// Returns whether the answer can be taken.
    #[getter]
    fn ready(&self, py: Python<'_>) -> PyResult<bool> {
        self.check_process(py)?;
        Ok(!matches!(self.cell.lock().stage, Stage::Pending))
    }

    /// Waits without the lock of the interpreter until there is an answer or a new holder, for at
    /// most `timeout` seconds. Returns whether there is an answer.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        self.check_process(py)?;
        let deadline = timeout.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds.max(0.0)));
        Ok(py.detach(|| {
            let mut state = self.cell.lock();
            loop {
                // A cancelled operation never ends: a thread that is about to wait for it while
                // Python exits must not wake up.
                if matches!(state.stage, Stage::Ready(_)) {
                    return true;
                }
                if state.contended.is_some() {
                    return false;
                }
                let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
                state = match left {
                    Some(Duration::ZERO) => return false,
                    Some(left) => self.cell.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                    None => self.cell.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                };
            }
        }))
    }

    /// Returns the holder that the acquisition has met since the last call.
    fn contended(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.check_process(py)?;
        let holder = self.cell.lock().contended.take();
        holder.map(|holder| holder_to_py(py, &holder)).transpose()
    }

    /// Takes the answer, or raises the error of the operation.
    fn take(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.check_process(py)?;
        let mut state = self.cell.lock();
        if matches!(state.stage, Stage::Pending) {
            drop(state);
            return Err(errors::to_py(py, &Error::new(ErrorKind::Other, "the operation has not ended")));
        }
        let stage = mem::replace(&mut state.stage, Stage::Gone);
        drop(state);
        match stage {
            Stage::Ready(answer) => match *answer {
                Ok(answer) => answer.into_py(py),
                Err(error) => Err(errors::to_py(py, &error)),
            },
            Stage::Pending | Stage::Gone => {
                Err(errors::to_py(py, &Error::new(ErrorKind::Other, "the operation was cancelled")))
            }
        }
    }

    /// Cancels the operation. A lock that it acquired, or may have acquired, is released in the
    /// background. It wakes no thread that waits for it.
    fn cancel(&self, py: Python<'_>) {
        // A guard on files is released at once, which writes to the file system.
        py.detach(|| self.stop());
    }
}

impl Drop for Op {
    fn drop(&mut self) {
        self.stop();
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    Error::new(ErrorKind::Other, format!("a fault in onelock itself, please report it: {text}"))
}
