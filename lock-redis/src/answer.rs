//! Converts replies of the scripts into values of the backend contract.

use std::time::{Duration, SystemTime};

use lock_core::{
    Error, ErrorKind, FencingToken, Holder, LossReason,
    backend::{AcquireOutcome, Grant, Lease, LeaseId},
};
use redis::Value;

use crate::{error::unexpected, record};

const ACQUIRE: &str = "the acquire script";
const LOST: &str = "the lost script";

pub(crate) fn granted_or_held(answer: Value) -> Result<AcquireOutcome, Error> {
    let items = match &answer {
        Value::BulkString(granted) => return new_grant(granted).map(AcquireOutcome::Granted),
        Value::Array(items) => items,
        _ => return Err(unexpected(ACQUIRE, &answer)),
    };
    match &items[..] {
        [Value::Int(2), Value::BulkString(record)] => {
            let token = record::parse(record).and_then(|holder| holder.token);
            Ok(AcquireOutcome::Granted(Grant::default().with_token(token).with_already_ours(true)))
        }
        [Value::Int(3)] => {
            Err(Error::new(ErrorKind::Other, "this acquire reached Redis after its lease id had been released"))
        }
        items => match refusal(ACQUIRE, items)? {
            Some(holder) => Ok(AcquireOutcome::Contended(holder)),
            None => Err(unexpected(ACQUIRE, &answer)),
        },
    }
}

/// `<token>[ <record of a holder that crashed>]`
fn new_grant(granted: &[u8]) -> Result<Grant, Error> {
    let mut parts = granted.splitn(2, |&b| b == b' ');
    let token =
        parts.next().and_then(|token| std::str::from_utf8(token).ok()?.parse().ok()).and_then(FencingToken::new);
    match token {
        Some(token) => Ok(Grant::default().with_token(token).with_crashed(parts.next().and_then(record::parse))),
        None => Err(Error::new(
            ErrorKind::Corrupt,
            "this lock has no fencing tokens left because its token key in Redis was modified; delete that key",
        )
        // The lock was granted anyway.
        .with_ambiguous(true)),
    }
}

/// Reads the holder from a refusal by `script`.
pub(crate) fn refusal(script: &str, items: &[Value]) -> Result<Option<Holder>, Error> {
    match items {
        [Value::Int(0), rest @ ..] => current(script, rest),
        _ => Err(unexpected(script, &Value::Array(items.to_vec()))),
    }
}

/// Reads `[record, remaining ms, type, time in µs]` as a holder.
fn current(script: &str, items: &[Value]) -> Result<Option<Holder>, Error> {
    match items {
        [Value::BulkString(value), Value::Int(ttl), _, now] => {
            Ok(Some(record::holder(Some(value), *ttl, None).with_store_time(store_time(now))))
        }
        [Value::Nil, Value::Int(ttl), Value::BulkString(kind), _] => match &kind[..] {
            b"none" => Ok(None),
            kind => Ok(Some(record::holder(None, *ttl, std::str::from_utf8(kind).ok()))),
        },
        _ => Err(unexpected(script, &Value::Array(items.to_vec()))),
    }
}

/// Reads the server's time. `None` if the user may not ask for it.
fn store_time(now: &Value) -> Option<SystemTime> {
    let Value::BulkString(micros) = now else { return None };
    let micros = std::str::from_utf8(micros).ok()?.parse().ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros))
}

/// Reads from a reply why `lease` was lost.
pub(crate) fn why_lost(answer: Value, lease: &Lease) -> Result<LossReason, Error> {
    let Value::Array(items) = answer else { return Err(unexpected(LOST, &answer)) };
    let [now @ .., token, broken] = &items[..] else { return Err(unexpected(LOST, &Value::Array(items))) };
    if let Value::BulkString(by) = broken {
        return Ok(LossReason::BrokenBy(String::from_utf8_lossy(by).into_owned()));
    }
    // A released lock in its minimum hold has an owner, but no version.
    let holder = current(LOST, now)?.filter(|holder| holder.version.is_some() || holder.foreign.is_some());
    Ok(match (holder, token) {
        (Some(holder), _) => LossReason::TakenBy(Box::new(holder)),
        (None, Value::BulkString(last)) if ends_in_our_record(last, lease.id) => LossReason::Expired,
        (None, _) => LossReason::RecordGone,
    })
}

/// Whether the token key says that `id` was the last holder and has not released.
fn ends_in_our_record(last: &[u8], id: LeaseId) -> bool {
    let mut parts = last.splitn(2, |&b| b == b' ');
    let held = parts.nth(1).and_then(|state| state.strip_prefix(b"H"));
    held.is_some_and(|record| record.starts_with(id.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    /// Replies that no script gives.
    fn unreadable() -> [Value; 6] {
        let refusal = |items: &[Value]| Value::Array([&[Value::Int(0)], items].concat());
        [
            Value::Nil,
            Value::Int(7),
            Value::Array(vec![]),
            refusal(&[]),
            refusal(&[text("a"), text("b"), Value::Nil, Value::Nil]),
            refusal(&[Value::Nil, Value::Nil, Value::Nil, Value::Nil]),
        ]
    }

    #[test]
    fn unreadable_replies_are_corrupt_and_ambiguous() {
        // A refusal that names no holder.
        let free = Value::Array(vec![Value::Int(0), Value::Nil, Value::Int(-2), text("none"), text("1")]);
        for answer in unreadable().into_iter().chain([free, text("granted"), Value::Array(vec![Value::Int(2)])]) {
            let error = granted_or_held(answer.clone()).unwrap_err();
            assert!(error.kind() == ErrorKind::Corrupt && error.is_ambiguous(), "{answer:?}: {error:?}");
        }
        let name = lock_core::LockName::new("job").unwrap();
        let lease = Lease::new(name, LeaseId::from(1));
        for answer in unreadable() {
            let error = why_lost(answer.clone(), &lease).unwrap_err();
            assert!(error.kind() == ErrorKind::Corrupt && error.is_ambiguous(), "{answer:?}: {error:?}");
        }
    }
}
