//! Converts replies of the scripts into values of the backend contract.

use std::time::{Duration, SystemTime};

use lock_core::{
    Error, ErrorKind, FencingToken, Holder, LossReason, Mode,
    backend::{AcquireOutcome, AcquireRequest, Grant, Lease, LeaseId, Release},
};
use redis::Value;

use crate::{error::unexpected, record};

const ACQUIRE: &str = "the acquire script";
const RELEASE: &str = "the release script";
const LOST: &str = "the lost script";

/// Reads the answer to `request` by the acquire or the join script.
pub(crate) fn granted_or_held(answer: Value, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
    let items = match &answer {
        Value::BulkString(granted) => {
            let mut parts = granted.splitn(2, |&b| b == b' ');
            let (token, rest) = (parts.next(), parts.next());
            if let Some(before) = rest.and_then(|rest| rest.strip_prefix(b"P")) {
                return grant_after(token, before);
            }
            return new_grant(token, rest.and_then(record::parse));
        }
        Value::Array(items) => items,
        _ => return Err(unexpected(ACQUIRE, &answer)),
    };
    match &items[..] {
        [Value::Int(2), Value::BulkString(record)] => {
            let Some(token) = record::parse(record).and_then(|holder| holder.token) else { return Err(no_token()) };
            Ok(AcquireOutcome::Granted(Grant::default().with_token(token).with_already_ours(true)))
        }
        [Value::Int(5), Value::BulkString(token), crashed @ ..] => {
            let crashed = crashed.iter().filter_map(|record| record::parse(bytes(record)?)).collect();
            new_grant(Some(token), Holder::of_several(crashed))
        }
        [Value::Int(7), Value::BulkString(mode), Value::BulkString(owner), Value::Int(ttl)] => {
            let Some(mode) = text(mode).and_then(record::mode) else { return Err(unexpected(ACQUIRE, &answer)) };
            let expires_in = u64::try_from(*ttl).ok().map(Duration::from_millis);
            let owner = String::from_utf8_lossy(owner).into_owned();
            Ok(AcquireOutcome::Contended(
                Holder::default().with_owner(owner).with_mode(mode).with_expires_in(expires_in),
            ))
        }
        [Value::Int(8), Value::BulkString(mode)] => {
            text(mode).and_then(record::mode).map_or(Ok(()), |present| request.require_same_permits(present))?;
            Err(unexpected(ACQUIRE, &answer))
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

fn new_grant(token: Option<&[u8]>, crashed: Option<Holder>) -> Result<AcquireOutcome, Error> {
    grant(token, crashed).map(AcquireOutcome::Granted)
}

/// Reads a grant that shows the token `before` it. If the holder crashed, a space, a letter and the
/// record follow.
fn grant_after(token: Option<&[u8]>, before: &[u8]) -> Result<AcquireOutcome, Error> {
    let mut parts = before.splitn(2, |&b| b == b' ');
    let previous = parts.next().and_then(fencing_token);
    let crashed = parts.next().and_then(|held| record::parse(held.get(1..)?));
    Ok(AcquireOutcome::Granted(grant(token, crashed)?.with_previous_token(previous)))
}

fn grant(token: Option<&[u8]>, crashed: Option<Holder>) -> Result<Grant, Error> {
    let token = token.and_then(fencing_token).ok_or_else(no_token)?;
    Ok(Grant::default().with_token(token).with_crashed(crashed))
}

fn fencing_token(digits: &[u8]) -> Option<FencingToken> {
    text(digits)?.parse().ok().and_then(FencingToken::new)
}

fn no_token() -> Error {
    let message = "this lock has no fencing tokens left because its keys in Redis were modified; delete the token key";
    // The lock was granted anyway.
    Error::new(ErrorKind::Corrupt, message).with_ambiguous(true)
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

/// Reads the answer of a release script.
pub(crate) fn released(answer: Value) -> Result<Release, Error> {
    match answer {
        Value::Int(1 | 5) => Ok(Release::Released),
        Value::Int(4) => Ok(Release::NotHeld(None)),
        Value::Array(answer) => refusal(RELEASE, &answer).map(Release::NotHeld),
        answer => Err(unexpected(RELEASE, &answer)),
    }
}

/// Whether the answer depends on a key that the call did not name.
pub(crate) fn needs_more_keys(answer: &Value) -> bool {
    matches!(answer, Value::Array(items) if items[..] == [Value::Int(9)])
}

/// Whether a refusal names a sorted set, whose holders another request has to read.
pub(crate) fn is_by_several(answer: &Value) -> bool {
    let Value::Array(items) = answer else { return false };
    matches!(&items[..], [Value::Int(0), Value::Nil, _, Value::BulkString(kind), _] if kind == b"zset")
}

/// Reads the holder from a refusal by `script`.
pub(crate) fn refusal(script: &str, items: &[Value]) -> Result<Option<Holder>, Error> {
    match items {
        [Value::Int(0), rest @ ..] => current(script, rest),
        [Value::Int(6), Value::BulkString(now), Value::BulkString(mode), Value::Int(count), members @ ..] => {
            let mode = text(mode).and_then(record::mode);
            let now = text(now).and_then(|now| now.parse().ok());
            let (Some(mode), Some(now)) = (mode, now) else {
                return Err(unexpected(script, &Value::Array(items.to_vec())));
            };
            let holders: Vec<_> =
                members.chunks_exact(3).filter_map(|member| one_of_several(member, mode, now)).collect();
            let unnamed = u64::try_from(*count).unwrap_or(0).saturating_sub(holders.len() as u64);
            Ok(Holder::of_several(holders).map(|holder| holder.with_more(unnamed)))
        }
        _ => Err(unexpected(script, &Value::Array(items.to_vec()))),
    }
}

/// Reads `[member, its end in µs, record]` as one of several holders.
fn one_of_several(member: &[Value], mode: Mode, now_micros: u64) -> Option<Holder> {
    let [member, end, record] = member else { return None };
    let member = String::from_utf8_lossy(bytes(member)?);
    let end: f64 = text(bytes(end)?)?.parse().ok()?;
    // A time in µs is exact up to the year 2255.
    #[allow(clippy::cast_precision_loss)]
    let left = Duration::try_from_secs_f64((end - now_micros as f64) / 1e6).ok();
    let (id, released) = match member.strip_prefix('R') {
        Some(id) => (id.parse::<LeaseId>(), true),
        None => (member.parse(), false),
    };
    let Ok(id) = id.map(|id| id.to_string()) else {
        let foreign = Holder::default().with_foreign("an entry of another client".to_owned());
        return Some(foreign.with_mode(mode).with_expires_in(left));
    };
    let holder = record::parse(bytes(record)?).filter(|holder| holder.version.as_ref() == Some(&id));
    let holder = holder.unwrap_or_default().with_mode(mode).with_version((!released).then_some(id));
    let now = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(now_micros));
    Some(holder.with_expires_in(left).with_store_time(now))
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
    let [broken, token, Value::Int(expired), Value::Array(now)] = &items[..] else {
        return Err(unexpected(LOST, &Value::Array(items)));
    };
    if let Value::BulkString(by) = broken {
        return Ok(LossReason::BrokenBy(String::from_utf8_lossy(by).into_owned()));
    }
    if *expired == 1 {
        return Ok(LossReason::Expired);
    }
    // A released lock in its minimum hold has an owner, but no version.
    let holder = refusal(LOST, now)?.filter(|holder| holder.version.is_some() || holder.foreign.is_some());
    // Other holders of its own mode have taken nothing from it.
    let holder = holder.filter(|holder| !(lease.mode.may_be_joined() && holder.mode == lease.mode));
    Ok(match (holder, token) {
        (Some(holder), _) => LossReason::TakenBy(Box::new(holder)),
        (None, Value::BulkString(last)) if ends_in_our_record(last, lease.id) => LossReason::Expired,
        (None, _) => LossReason::RecordGone,
    })
}

/// Whether the token key says that `id` was the last holder and has not released.
fn ends_in_our_record(last: &[u8], id: LeaseId) -> bool {
    let mut parts = last.splitn(2, |&b| b == b' ');
    let held = parts.nth(1).and_then(|state| state.strip_prefix(b"H").or(state.strip_prefix(b"F")));
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
        let several = |items: &[Value]| Value::Array([&[Value::Int(6)], items].concat());
        let odd = [
            free,
            text("granted"),
            Value::Array(vec![Value::Int(2)]),
            Value::Array(vec![Value::Int(2), text("")]),
            Value::Array(vec![Value::Int(5), text("x")]),
            Value::Array(vec![Value::Int(7), text("?"), text("a"), Value::Int(1)]),
            Value::Array(vec![Value::Int(8), text("s")]),
            several(&[text("1700000000000000"), text("?"), Value::Int(1)]),
            several(&[text("soon"), text("s"), Value::Int(1)]),
        ];
        let request = AcquireRequest::new(lock_core::LockName::new("job").unwrap(), LeaseId::from(1), "etl");
        for answer in unreadable().into_iter().chain(odd) {
            let error = granted_or_held(answer.clone(), &request).unwrap_err();
            assert!(error.kind() == ErrorKind::Corrupt && error.is_ambiguous(), "{answer:?}: {error:?}");
        }
        let lease = request.lease(None);
        for answer in unreadable() {
            let error = why_lost(answer.clone(), &lease).unwrap_err();
            assert!(error.kind() == ErrorKind::Corrupt && error.is_ambiguous(), "{answer:?}: {error:?}");
        }
    }
}
