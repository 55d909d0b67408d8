//! What the thread "onelock-events" of Python reports: log records and losses.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use pyo3::prelude::*;

use crate::{answer::lost_to_py, engine::Engine};

/// The log records that wait at most; older ones are dropped and counted.
const MOST_RECORDS: usize = 1_024;

/// The events that Python has not taken yet.
#[derive(Default)]
pub(crate) struct Events {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Event>,
    records: usize,
    dropped: u64,
    closed: bool,
}

pub(crate) enum Event {
    /// A log record: the level as in `logging`, the logger, the message.
    Record(u8, String, String),
    /// The guard with this key was lost.
    Lost(u64, lock_core::Lost),
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, event: Event) {
        let mut queue = self.lock();
        if queue.closed {
            return;
        }
        if matches!(event, Event::Record(..)) {
            if queue.records == MOST_RECORDS {
                let oldest = queue.waiting.iter().position(|event| matches!(event, Event::Record(..)));
                oldest.map(|oldest| queue.waiting.remove(oldest));
                queue.dropped += 1;
            } else {
                queue.records += 1;
            }
        }
        queue.waiting.push_back(event);
        drop(queue);
        self.more.notify_one();
    }

    /// Waits for the next event, and returns it with the number of dropped records before it.
    fn next(&self) -> (Event, u64) {
        let mut queue = self.lock();
        loop {
            if let Some(event) = queue.waiting.pop_front().filter(|_| !queue.closed) {
                if matches!(event, Event::Record(..)) {
                    queue.records -= 1;
                }
                return (event, std::mem::take(&mut queue.dropped));
            }
            queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Waits for the next event without the lock of the interpreter:
/// `("record", level, logger, message, dropped)` or `("lost", key, loss)`.
#[pyfunction]
pub(crate) fn next_event(py: Python<'_>) -> PyResult<Py<PyAny>> {
    let events = &Engine::here()?.events;
    let (event, dropped) = py.detach(|| events.next());
    let tuple = match event {
        Event::Record(level, logger, message) => ("record", level, logger, message, dropped).into_pyobject(py)?,
        Event::Lost(key, lost) => {
            return Ok(("lost", key, lost_to_py(py, &lost)?).into_pyobject(py)?.into_any().unbind());
        }
    };
    Ok(tuple.into_any().unbind())
}

/// Ends the events, because the interpreter exits: a thread that woke up now would wait for an
/// interpreter that is gone.
#[pyfunction]
pub(crate) fn close() {
    if let Some(engine) = Engine::started() {
        engine.events.lock().closed = true;
    }
}
