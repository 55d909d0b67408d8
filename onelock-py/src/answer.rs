//! The answers of operations as values of Python, which `python/onelock` turns into its types.

use std::time::{Duration, SystemTime};

use lock_core::{
    Holder, LockName, LossReason, Lost, Mode,
    backend::{Break, End, Finding, Listing, PastHolder, Release},
};
use pyo3::{
    prelude::*,
    types::{PyBytes, PyDict},
};

use crate::{background::CountedGuard, guard::CoreGuard};

/// The answer of an operation.
pub(crate) enum Answer {
    Done,
    Guard(Box<CountedGuard>),
    Contended(Holder),
    Holder(Option<Holder>),
    Past(Option<PastHolder>),
    Listing(Listing),
    Break(Break),
    Findings(Vec<Finding>),
    Release(Release),
    Store(crate::core::About),
    Lost(Lost),
}

impl Answer {
    pub(crate) fn into_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match self {
            Self::Done => py.None(),
            Self::Guard(counted) => Py::new(py, CoreGuard::new(*counted)?)?.into_any(),
            Self::Contended(holder) => holder_to_py(py, &holder)?,
            Self::Holder(holder) => match holder {
                Some(holder) => holder_to_py(py, &holder)?,
                None => py.None(),
            },
            Self::Past(past) => match past {
                Some(past) => past_to_py(py, &past)?,
                None => py.None(),
            },
            Self::Listing(listing) => listing_to_py(py, &listing)?,
            Self::Break(answer) => (answer == Break::Broken).into_pyobject(py)?.to_owned().into_any().unbind(),
            Self::Findings(findings) => findings_to_py(py, &findings)?,
            Self::Release(answer) => {
                matches!(answer, Release::Released).into_pyobject(py)?.to_owned().into_any().unbind()
            }
            Self::Store(about) => about.into_py(py)?,
            Self::Lost(lost) => lost_to_py(py, &lost)?,
        })
    }
}

fn epoch(time: SystemTime) -> Option<f64> {
    time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs_f64())
}

pub(crate) fn mode_to_py(mode: Mode) -> (&'static str, Option<u16>) {
    match mode {
        Mode::Exclusive => ("exclusive", None),
        Mode::Shared => ("shared", None),
        Mode::Permit { of } => ("permit", Some(of.get())),
        // The enum may grow, and its words are those of its display.
        _ => ("other", None),
    }
}

pub(crate) fn holder_to_py(py: Python<'_>, holder: &Holder) -> PyResult<Py<PyAny>> {
    let fields = PyDict::new(py);
    let (mode, permits) = mode_to_py(holder.mode);
    fields.set_item("text", holder.to_string())?;
    fields.set_item("owner", holder.owner.as_deref())?;
    fields.set_item("token", holder.token.map(|token| token.get()))?;
    fields.set_item("since", holder.since.and_then(epoch))?;
    fields.set_item("held_for", holder.held_for.map(|age| age.as_secs_f64()))?;
    fields.set_item("expires_in", holder.expires_in.map(|left| left.as_secs_f64()))?;
    fields.set_item("data", holder.data.as_deref().map(|data| PyBytes::new(py, data)))?;
    fields.set_item("version", holder.version.as_deref())?;
    fields.set_item("foreign", holder.foreign.as_deref())?;
    fields.set_item("mode", mode)?;
    fields.set_item("permits", permits)?;
    let others: Vec<_> = holder.others.iter().map(|other| holder_to_py(py, other)).collect::<PyResult<_>>()?;
    fields.set_item("others", others)?;
    fields.set_item("count", holder.count())?;
    Ok(fields.into_any().unbind())
}

pub(crate) fn lost_to_py(py: Python<'_>, lost: &Lost) -> PyResult<Py<PyAny>> {
    let fields = PyDict::new(py);
    let (holder, parent) = match &lost.reason {
        LossReason::TakenBy(holder) => (Some(holder_to_py(py, holder)?), None),
        LossReason::Forked { parent } => (None, Some(*parent)),
        _ => (None, None),
    };
    fields.set_item("name", lost.name.as_str())?;
    fields.set_item("token", lost.token.map(|token| token.get()))?;
    fields.set_item("reason", lost.reason.as_str())?;
    fields.set_item("text", lost.to_string())?;
    fields.set_item("holder", holder)?;
    fields.set_item("parent", parent)?;
    Ok(fields.into_any().unbind())
}

fn past_to_py(py: Python<'_>, past: &PastHolder) -> PyResult<Py<PyAny>> {
    let (end, by) = match &past.end {
        End::Released => ("released", None),
        End::Crashed => ("crashed", None),
        End::BrokenBy(by) => ("broken", Some(by.as_str())),
        _ => ("other", None),
    };
    let at = past.ended_at.and_then(epoch);
    Ok((holder_to_py(py, &past.holder)?, end, by, at).into_pyobject(py)?.into_any().unbind())
}

fn listing_to_py(py: Python<'_>, listing: &Listing) -> PyResult<Py<PyAny>> {
    let one = |(name, holder): &(LockName, Holder)| Ok((name.as_str().to_owned(), holder_to_py(py, holder)?));
    let locks: Vec<_> = listing.locks.iter().map(one).collect::<PyResult<_>>()?;
    let odd: Vec<_> = listing.odd().iter().map(|entry| entry.to_string()).collect();
    Ok((locks, odd, listing.odd_count()).into_pyobject(py)?.into_any().unbind())
}

fn findings_to_py(py: Python<'_>, findings: &[Finding]) -> PyResult<Py<PyAny>> {
    let one = |finding: &Finding| {
        (finding.level.as_str(), finding.subject.clone(), finding.text.clone(), finding.advice.clone())
    };
    let all: Vec<_> = findings.iter().map(one).collect();
    Ok(all.into_pyobject(py)?.into_any().unbind())
}

/// Returns seconds, for Python.
pub(crate) fn seconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64())
}
