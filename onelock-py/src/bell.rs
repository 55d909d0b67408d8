//! Wakes an event loop of Python, which watches a descriptor.

use std::{
    io::{Read, Write},
    mem,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, PoisonError},
};

use pyo3::prelude::*;

/// The descriptor of one event loop, and the operations that have news. Native threads write to
/// the descriptor, and only the loop's own thread runs Python.
#[pyclass(frozen)]
pub(crate) struct Bell(Arc<Ringer>);

/// The half of a [`Bell`] that native threads have.
pub(crate) struct Ringer {
    loud: UnixStream,
    heard: UnixStream,
    /// The keys of operations with news.
    keys: Mutex<Vec<u64>>,
}

impl Ringer {
    /// Tells the loop that the operation `key` has news.
    pub(crate) fn ring(&self, key: u64) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let was_silent = keys.is_empty();
        keys.push(key);
        drop(keys);
        if was_silent {
            // A full buffer rings already.
            let _ = (&self.loud).write(&[1]);
        }
    }
}

#[pymethods]
impl Bell {
    #[new]
    fn new() -> PyResult<Self> {
        let (loud, heard) = UnixStream::pair()?;
        loud.set_nonblocking(true)?;
        heard.set_nonblocking(true)?;
        Ok(Self(Arc::new(Ringer { loud, heard, keys: Mutex::default() })))
    }

    /// Returns the descriptor to watch for reading.
    fn fileno(&self) -> RawFd {
        self.0.heard.as_raw_fd()
    }

    /// Returns the keys of the operations that have news since the last call.
    fn drain(&self) -> Vec<u64> {
        // Read before the keys are taken, so that no key is left without a byte.
        let _ = (&self.0.heard).read(&mut [0; 64]);
        mem::take(&mut *self.0.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Bell {
    pub(crate) fn ringer(&self) -> Arc<Ringer> {
        Arc::clone(&self.0)
    }
}
