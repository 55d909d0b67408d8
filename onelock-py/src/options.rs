//! The options of one acquisition, as Python passes them.

use std::{num::NonZeroU16, time::Duration};

use lock_core::{LockRequest, Mode, Renew, config::LONGEST_DURATION};
use pyo3::{prelude::*, types::PyDict};

use crate::errors;

/// Returns a duration from seconds that Python has checked to be a number.
pub(crate) fn duration(py: Python<'_>, name: &str, seconds: f64) -> PyResult<Duration> {
    let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| *time <= LONGEST_DURATION);
    time.ok_or_else(|| {
        let most = LONGEST_DURATION.as_secs();
        errors::config(py, format!("{name}={seconds} is no duration; pass seconds from 0 to {most}, or None"))
    })
}

/// The options of one acquisition.
#[derive(Default)]
pub(crate) struct Options(Vec<Setting>);

enum Setting {
    Ttl(Duration),
    Margin(Duration),
    Grace(Duration),
    MinHold(Duration),
    MaxHold(Duration),
    Deadline(Duration),
    Renew(Renew),
    Owner(String),
    Data(Vec<u8>),
    Mode(Mode),
    HandOver(u32),
    Fair(bool),
}

/// Reads `options`, whose names and types `python/onelock/_options.py` has checked.
pub(crate) fn read(options: &Bound<'_, PyDict>) -> PyResult<Options> {
    let mut read = Options::default();
    for (key, value) in options {
        let key: String = key.extract()?;
        let time = || duration(value.py(), &key, value.extract()?);
        read.0.push(match key.as_str() {
            "ttl" => Setting::Ttl(time()?),
            "margin" => Setting::Margin(time()?),
            "grace" => Setting::Grace(time()?),
            "min_hold" => Setting::MinHold(time()?),
            "max_hold" => Setting::MaxHold(time()?),
            "deadline" => Setting::Deadline(time()?),
            "renew" => Setting::Renew(renew(&value)?),
            "owner" => Setting::Owner(value.extract()?),
            "data" => Setting::Data(value.extract()?),
            "shared" if value.extract()? => Setting::Mode(Mode::Shared),
            "shared" => continue,
            "permits" => Setting::Mode(Mode::Permit { of: permits(&value)? }),
            "hand_over" => Setting::HandOver(hand_over(&value)?),
            "fair" => Setting::Fair(value.extract()?),
            _ => return Err(errors::config(value.py(), format!("there is no option \"{key}\" of a lock"))),
        });
    }
    Ok(read)
}

impl Options {
    /// Returns the name of the holder, if it is set.
    pub(crate) fn owner(&self) -> Option<String> {
        self.0.iter().find_map(|setting| match setting {
            Setting::Owner(owner) => Some(owner.clone()),
            _ => None,
        })
    }

    pub(crate) fn apply(self, request: LockRequest) -> LockRequest {
        self.0.into_iter().fold(request, |request, setting| match setting {
            Setting::Ttl(ttl) => request.ttl_if_supported(ttl),
            Setting::Margin(margin) => request.margin(margin),
            Setting::Grace(grace) => request.grace(grace),
            Setting::MinHold(min_hold) => request.min_hold(min_hold),
            Setting::MaxHold(max_hold) => request.max_hold(max_hold),
            Setting::Deadline(deadline) => request.deadline(deadline),
            Setting::Renew(renew) => request.renew(renew),
            Setting::Owner(owner) => request.owner(owner),
            Setting::Data(data) => request.data(data),
            Setting::Mode(mode) => request.mode(mode),
            Setting::HandOver(times) => request.hand_over(times),
            Setting::Fair(fair) => request.fair(fair),
        })
    }
}

fn renew(value: &Bound<'_, PyAny>) -> PyResult<Renew> {
    match value.extract::<String>() {
        Ok(word) if word == "auto" => Ok(Renew::Auto),
        Ok(word) if word == "manual" => Ok(Renew::Manual),
        Ok(word) => {
            let message = format!("renew=\"{word}\" must be \"auto\", \"manual\" or a number of seconds");
            Err(errors::config(value.py(), message))
        }
        Err(_) => Ok(Renew::Every(duration(value.py(), "renew", value.extract()?)?)),
    }
}

fn permits(value: &Bound<'_, PyAny>) -> PyResult<NonZeroU16> {
    let message = || format!("permits={value} must be a number from 1 to {}", u16::MAX);
    value.extract().map_err(|_| errors::config(value.py(), message()))
}

/// Reads the number of hand-overs, whose upper limit the core checks.
fn hand_over(value: &Bound<'_, PyAny>) -> PyResult<u32> {
    let message = || format!("hand_over={value} must be a number, zero or more");
    value.extract().map_err(|_| errors::config(value.py(), message()))
}
