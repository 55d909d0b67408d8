//! Errors of the library become exceptions of Python.

use std::error::Error as _;

use lock_core::{Error, ErrorKind};
use pyo3::{prelude::*, types::PyDict};

use crate::answer::lost_to_py;

/// Makes the exception by `onelock._errors.from_native`, which chooses its class.
pub(crate) fn to_py(py: Python<'_>, error: &Error) -> PyErr {
    made(py, error).unwrap_or_else(|failed| failed)
}

fn made(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let fields = PyDict::new(py);
    fields.set_item("kind", error.kind().as_str())?;
    fields.set_item("message", error.to_string())?;
    fields.set_item("operation", error.operation().map(|operation| operation.as_str()))?;
    fields.set_item("name", error.name().map(|name| name.as_str()))?;
    fields.set_item("store", error.store())?;
    fields.set_item("retryable", error.is_retryable())?;
    fields.set_item("ambiguous", error.is_ambiguous())?;
    fields.set_item("lost", error.lost().map(|lost| lost_to_py(py, lost)).transpose()?)?;
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    fields.set_item("causes", causes)?;
    let made = py.import("onelock._errors")?.getattr("from_native")?.call1((fields,))?;
    Ok(PyErr::from_value(made))
}

/// The exception of a value that Python passed and that is wrong.
pub(crate) fn config(py: Python<'_>, message: impl Into<String>) -> PyErr {
    to_py(py, &Error::new(ErrorKind::Config, message))
}
