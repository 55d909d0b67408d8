//! The value of a lock's key:
//! `<id> <stamp> <token> <since, µs> <ttl, ms> <bytes of owner> <owner>[+<data>]`. With several
//! holders each has such a record, and the mode follows the ttl: `s` for a shared lock, `p3` for
//! one of three permits.
//!
//! The lease id makes the value unique, as foreign clients expect. The other fields describe the
//! holder. The stamp is that of the last request that acquired the lock, so that an earlier release
//! is ignored. It always has 16 digits: the scripts find it by position and compare it as text.

use std::time::{Duration, SystemTime};

use lock_core::{
    FencingToken, Holder, Mode,
    backend::{AcquireRequest, LeaseId},
};

/// The prefix that release.lua puts before a record that keeps a released lock refused for its
/// minimum hold.
pub(crate) const RELEASED: &str = "released ";

/// Formats the end of the record, which does not depend on the server's token and time.
pub(crate) fn tail(request: &AcquireRequest, ttl_ms: u64) -> Vec<u8> {
    let (owner, data) = (&request.owner, request.data.as_deref());
    let mode = if request.mode.may_be_joined() { mode_text(request.mode) } else { String::new() };
    let mut tail = Vec::with_capacity(32 + owner.len() + data.map_or(0, <[u8]>::len));
    // Not with `format!`, which costs several times as much in every request.
    for part in [&ttl_ms.to_string(), &*mode, " ", &owner.len().to_string(), " ", owner] {
        tail.extend_from_slice(part.as_bytes());
    }
    if let Some(data) = data {
        tail.push(b'+');
        tail.extend_from_slice(data);
    }
    tail
}

/// Returns the mode as the scripts know it.
pub(crate) fn mode_text(mode: Mode) -> String {
    match mode {
        Mode::Permit { of } => format!("p{of}"),
        Mode::Shared => "s".into(),
        _ => "x".into(),
    }
}

/// Reads the mode from the text of the scripts.
pub(crate) fn mode(text: &str) -> Option<Mode> {
    match text {
        "x" => Some(Mode::Exclusive),
        "s" => Some(Mode::Shared),
        text => text.strip_prefix('p')?.parse().ok().map(|of| Mode::Permit { of }),
    }
}

/// Returns the end of a record of `id`, which follows its stamp and token.
pub(crate) fn end_of(record: &[u8], id: LeaseId) -> Option<&[u8]> {
    let mut fields = record.splitn(4, |&b| b == b' ');
    (fields.next()? == id.to_string().as_bytes()).then_some(())?;
    fields.nth(2)
}

/// Reads the holder from a key: from `value` if that is a string, else from the `kind` of value.
/// `ttl_ms` is the key's remaining time.
pub(crate) fn holder(value: Option<&[u8]>, ttl_ms: i64, kind: Option<&str>) -> Holder {
    let expires_in = u64::try_from(ttl_ms).ok().map(Duration::from_millis);
    let Some(value) = value else {
        return foreign(foreign_kind(kind.unwrap_or("value of an unknown type")), expires_in);
    };
    let (record, released) = match value.strip_prefix(RELEASED.as_bytes()) {
        Some(record) => (record, true),
        None => (value, false),
    };
    match parse(record) {
        Some(mut holder) => {
            let version = holder.version.take().filter(|_| !released);
            holder.with_expires_in(expires_in).with_version(version)
        }
        None => foreign("a foreign Redis client".into(), expires_in),
    }
}

/// Parses the holder from a record.
pub(crate) fn parse(record: &[u8]) -> Option<Holder> {
    let mut fields = record.splitn(7, |&b| b == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let id: LeaseId = text()?.parse().ok()?;
    let _stamp: u64 = text()?.parse().ok()?;
    let token = FencingToken::new(text()?.parse().ok()?)?;
    let since = SystemTime::UNIX_EPOCH + Duration::from_micros(text()?.parse().ok()?);
    let (ttl_ms, mode) = ttl_and_mode(text()?)?;
    let _: u64 = ttl_ms.parse().ok()?;
    let owner_bytes: usize = text()?.parse().ok()?;
    let (owner, data) = fields.next()?.split_at_checked(owner_bytes)?;
    let data = match data.split_first() {
        None => None,
        Some((b'+', data)) => Some(data.to_vec()),
        Some(_) => return None,
    };
    Some(
        Holder::default()
            .with_owner(std::str::from_utf8(owner).ok()?.to_owned())
            .with_token(token)
            .with_since(since)
            .with_data(data)
            .with_version(id.to_string())
            .with_mode(mode),
    )
}

/// Splits `30000`, `30000s` or `30000p3`.
fn ttl_and_mode(text: &str) -> Option<(&str, Mode)> {
    match text.find(['s', 'p']) {
        Some(at) => Some((&text[..at], mode(&text[at..])?)),
        None => Some((text, Mode::Exclusive)),
    }
}

fn foreign(mut kind: String, expires_in: Option<Duration>) -> Holder {
    if expires_in.is_none() {
        kind.push_str(" whose key never expires");
    }
    Holder::default().with_foreign(kind).with_expires_in(expires_in)
}

fn foreign_kind(kind: &str) -> String {
    match kind {
        "hash" => "a Redis hash (Redisson)".into(),
        other => format!("a Redis {other}"),
    }
}

#[cfg(test)]
mod tests {
    use lock_core::LockName;

    use super::*;

    fn record(owner: &str, data: Option<&[u8]>) -> Vec<u8> {
        let request =
            AcquireRequest::new(LockName::new("n").unwrap(), LeaseId::from(7), owner).with_data(data.map(Into::into));
        let mut record = format!("{} 1700000000000002 1700000000000001 1700000000000000 ", request.id).into_bytes();
        record.extend(tail(&request, 30_000));
        record
    }

    #[test]
    fn owner_and_data_survive_arbitrary_bytes() {
        for owner in ["etl:1", "", "two words + more", "ü\n\0"] {
            for data in [None, Some(&b""[..]), Some(b"+ \0\xff")] {
                let holder = parse(&record(owner, data)).unwrap();
                assert_eq!((holder.owner.as_deref(), holder.data.as_deref()), (Some(owner), data));
                assert_eq!(holder.token.unwrap().get(), 1_700_000_000_000_001);
            }
        }
    }

    #[test]
    fn the_mode_follows_the_ttl() {
        let permits = |of: u16| Mode::Permit { of: of.try_into().unwrap() };
        for mode in [Mode::Exclusive, Mode::Shared, permits(1), permits(u16::MAX)] {
            let request = AcquireRequest::new(LockName::new("n").unwrap(), LeaseId::from(7), "s p");
            let mut record = format!("{} 1 1700000000000001 1700000000000000 ", request.id).into_bytes();
            record.extend(tail(&request.with_mode(mode), 30_000));
            let holder = parse(&record).unwrap();
            assert_eq!((holder.mode, holder.owner.as_deref()), (mode, Some("s p")));
            assert_eq!(super::mode(&mode_text(mode)), Some(mode));
        }
        for text in ["", "p", "p0", "p65536", "ss", "S"] {
            assert_eq!(super::mode(text), None, "{text}");
        }
    }

    #[test]
    fn foreign_values_are_reported_and_cannot_be_broken() {
        let uuid = b"0123456789abcdef0123456789abcdef";
        for value in [&uuid[..], b"", b"\xff", &record("o", None)[..40], b"ADDED:2026-01-01@host"] {
            let holder = holder(Some(value), 5_000, None);
            assert_eq!(holder.foreign.as_deref(), Some("a foreign Redis client"));
            assert_eq!((holder.version, holder.expires_in), (None, Some(Duration::from_secs(5))));
        }
        assert_eq!(holder(Some(uuid), -1, None).foreign.unwrap(), "a foreign Redis client whose key never expires");
        assert_eq!(holder(None, 9, Some("hash")).foreign.unwrap(), "a Redis hash (Redisson)");
    }

    #[test]
    fn a_released_lock_in_its_minimum_hold_cannot_be_broken() {
        let mut kept = RELEASED.as_bytes().to_vec();
        kept.extend(record("etl:1", None));
        let holder = holder(Some(&kept), 5, None);
        assert_eq!((holder.owner.as_deref(), holder.version, holder.foreign), (Some("etl:1"), None, None));
    }
}
