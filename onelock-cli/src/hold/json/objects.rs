//! The objects of replies and events.

use std::time::{Duration, SystemTime};

use lock_core::{
    Capability, Error, Guard, Holder, LockName, Locker, Lost,
    backend::{Break, Listing},
};
use serde_json::{Value, json};

use crate::{
    exit::{self, Failure},
    operators,
};

/// The first second of the year 10000, which RFC 3339 cannot write.
const YEAR_10000: Duration = Duration::from_secs(253_402_300_800);

pub(super) fn hello(locker: &Locker) -> Value {
    let capabilities = locker.capabilities();
    let names: Vec<_> = Capability::ALL.iter().filter(|c| capabilities.has(**c)).map(|c| c.as_str()).collect();
    json!({
        "onelock": env!("CARGO_PKG_VERSION"),
        "protocol": [1],
        "store": locker.store(),
        "capabilities": names,
        "clock": "boottime",
    })
}

pub(super) fn ok(id: &Value, answer: &Value) -> Value {
    json!({ "id": id, "ok": answer })
}

pub(super) fn failed(id: &Value, error: &Value) -> Value {
    json!({ "id": id, "error": error })
}

/// Returns an error that is no error of the store.
pub(super) fn refusal(kind: &str, message: &str) -> Value {
    json!({ "kind": kind, "message": message, "retryable": false, "ambiguous": false })
}

pub(super) fn error(error: &Error) -> Value {
    json!({
        "kind": error.kind().as_str(),
        "message": Failure::from(error.clone()).to_string(),
        "retryable": error.is_retryable(),
        "ambiguous": error.is_ambiguous(),
    })
}

/// Returns the line for a store that could not be opened. Nothing was requested yet, so nothing is
/// ambiguous.
pub(super) fn not_opened(failure: &Failure) -> Value {
    let kind = match failure.code {
        exit::CONFIG => "config",
        exit::NO_PERMISSION => "permission_denied",
        exit::CANNOT_CREATE => "store_not_ready",
        exit::UNAVAILABLE => "unavailable",
        exit::CORRUPT => "corrupt",
        _ => "other",
    };
    let retryable = failure.code == exit::UNAVAILABLE;
    json!({ "error": {
        "kind": kind, "message": failure.to_string(), "retryable": retryable, "ambiguous": false,
    } })
}

/// Returns the end of a guard's validity: nanoseconds of `CLOCK_BOOTTIME`, and wall time.
fn validity(guard: &Guard) -> (Option<u64>, Option<String>) {
    let boot = guard.valid_until().and_then(|until| u64::try_from(until.boot.as_nanos()).ok());
    // Cut to milliseconds, so it is never too late.
    let wall = guard.expires_at().filter(|at| *at < SystemTime::UNIX_EPOCH + YEAR_10000);
    (boot, wall.map(|at| humantime::format_rfc3339_millis(at).to_string()))
}

pub(super) fn acquired(number: u64, guard: &Guard) -> Value {
    let (valid_until, expires_at) = validity(guard);
    let crashed = guard.crashed_holder().map(|holder| operators::json(guard.name(), Some(holder)));
    json!({
        "held": true,
        "guard": number,
        "token": guard.token().map(lock_core::FencingToken::get),
        "valid_until": valid_until,
        "expires_at": expires_at,
        "crashed": crashed,
    })
}

pub(super) fn contended(name: &LockName, holder: &Holder) -> Value {
    json!({ "held": false, "holder": operators::json(name, Some(holder)) })
}

/// Returns the answer to `check` and `ensure` for a guard that is held.
pub(super) fn held(guard: &Guard) -> Value {
    let (valid_until, expires_at) = validity(guard);
    json!({
        "held": true,
        "remaining": guard.remaining().map(|left| left.as_secs_f64()),
        "valid_until": valid_until,
        "expires_at": expires_at,
    })
}

pub(super) fn not_held(lost: &Value) -> Value {
    json!({ "held": false, "lost": lost })
}

pub(super) fn lost(lost: &Lost) -> Value {
    json!({ "reason": lost.reason.as_str(), "message": lost.to_string() })
}

pub(super) fn list(listing: &Listing) -> Value {
    let locks: Vec<_> = listing.locks.iter().map(|(name, holder)| operators::json(name, Some(holder))).collect();
    let odd: Vec<_> =
        listing.odd().iter().map(|entry| json!({ "place": entry.place, "reason": entry.reason })).collect();
    json!({ "locks": locks, "odd": odd, "odd_count": listing.odd_count() })
}

pub(super) fn broken(name: &LockName, outcome: &Break) -> Value {
    match outcome {
        Break::Broken => json!({ "broken": true }),
        Break::Changed(now) => json!({ "broken": false, "now": operators::json(name, now.as_ref()) }),
    }
}

pub(super) fn waiting(request: &Value, name: &LockName, holder: &Holder) -> Value {
    json!({ "event": "waiting", "request": request, "holder": operators::json(name, Some(holder)) })
}

pub(super) fn renewed(number: u64, guard: &Guard) -> Value {
    let (valid_until, expires_at) = validity(guard);
    json!({ "event": "renewed", "guard": number, "valid_until": valid_until, "expires_at": expires_at })
}

pub(super) fn stopping(number: u64) -> Value {
    json!({ "event": "stopping", "guard": number })
}

pub(super) fn lost_event(number: u64, lost: &Value) -> Value {
    json!({ "event": "lost", "guard": number, "reason": lost["reason"], "message": lost["message"] })
}
