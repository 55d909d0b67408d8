//! The record of a lock: its holder, for other clients to read, and its fencing token, for the next
//! holder.
//!
//! ```text
//! onelock/1 held     0000000000000000 0000000000000000
//! {"name":"etl","id":"…","token":17…,"owner":"…","since_us":17…,"pid":42,"pid_namespace":40…,"data":"…"}
//! ```
//!
//! The first line has a fixed width, so that a release changes it by one write in place. Its
//! numbers are the end and the length of a minimum hold, in microseconds. The record never decides
//! which client holds the lock; only `flock` does.

use std::{num::NonZeroU16, time::Duration};

use lock_core::{FencingToken, Holder, LockName, Mode, backend::AcquireRequest};
use serde::{Deserialize, Serialize};

use crate::{clock::time_of, process::RecordedProcess};

/// How much of a record is read, and therefore the limit for writing.
pub(crate) const MAX_BYTES: usize = 256 * 1024;
const HEAD_BYTES: usize = 53;
/// Records grow in steps, so that a replacement rarely changes the length of the file.
const STEP_BYTES: usize = 256;
/// A minimum hold survives a clock that is set back by at most this, or by at most the length of
/// the hold.
const SET_BACK_US: u64 = 60_000_000;
const MAX_DIGITS: u64 = 9_999_999_999_999_999;

/// The first bytes of every file of onelock that has content, whatever its version.
pub(crate) const MAGIC: &[u8] = b"onelock/";

/// Returns whether a file whose first bytes are `start` is one of onelock: with its first line, or
/// as a crash left it, empty or cut inside of the first word. Only such a file may be changed.
pub(crate) fn is_ours(start: &[u8]) -> bool {
    start.starts_with(MAGIC) || MAGIC.starts_with(start)
}

/// The record of one acquisition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) state: RecordState,
    pub(crate) body: Body,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordState {
    Held,
    Released(MinHold),
    /// The lock was last held by several holders, in one mode. They are recorded in the file of the
    /// parts, and their tokens are larger than the one of this record.
    Joined,
}

/// The minimum hold of a released lock: its end, and its length, which shows whether the clock was
/// set back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MinHold {
    until_us: u64,
    for_us: u64,
}

/// Every field has a default, so that at least the token of a later version's record can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Body {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) token: u64,
    pub(crate) owner: String,
    pub(crate) since_us: u64,
    /// How many permits the lock has, in the record of a part. None for a shared lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    permits: Option<NonZeroU16>,
    #[serde(flatten)]
    pub(crate) process: Option<RecordedProcess>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_hex: Option<String>,
}

/// The file is not a record: torn, written by another program, or tampered with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a lock record: {0}")]
pub(crate) struct Garbage(&'static str);

impl Record {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Garbage> {
        if bytes.len() > MAX_BYTES {
            return Err(Garbage("too long"));
        }
        let (head, body) = bytes.split_at_checked(HEAD_BYTES).ok_or(Garbage("too short"))?;
        Self::parse_body(parse_head(head).ok_or(Garbage("wrong first line"))?, body)
    }

    /// Parses the record of a part. Its holder may be changing the first line at this moment, so a
    /// line that cannot be read counts as held.
    pub(crate) fn parse_part(bytes: &[u8]) -> Result<Self, Garbage> {
        let (head, body) = bytes.split_at_checked(HEAD_BYTES).ok_or(Garbage("too short"))?;
        Self::parse_body(parse_head(head).unwrap_or(RecordState::Held), body)
    }

    fn parse_body(state: RecordState, body: &[u8]) -> Result<Self, Garbage> {
        let body: Body = serde_json::from_slice(body).map_err(|_| Garbage("no JSON object after the first line"))?;
        FencingToken::new(body.token).ok_or(Garbage("token out of range"))?;
        Ok(Self { state, body })
    }

    pub(crate) fn token(&self) -> Option<FencingToken> {
        FencingToken::new(self.body.token)
    }

    /// Returns the mode of a part.
    pub(crate) fn mode(&self) -> Mode {
        self.body.permits.map_or(Mode::Shared, |of| Mode::Permit { of })
    }

    /// Returns the rest of the minimum hold of a released lock at `now_us`.
    pub(crate) fn hold_left(&self, now_us: u64) -> Option<Duration> {
        let RecordState::Released(hold) = self.state else { return None };
        let left = hold.until_us.checked_sub(now_us).filter(|&left| left > 0)?;
        // If the rest is much longer than the whole hold, the clock was set back. The lock must not
        // stay refused until the clock catches up.
        let set_back = left.saturating_sub(hold.for_us);
        (set_back <= hold.for_us.max(SET_BACK_US)).then(|| Duration::from_micros(left))
    }

    pub(crate) fn into_holder(self) -> Holder {
        let token = self.token();
        let Body { owner, since_us, data, data_hex, .. } = self.body;
        Holder::default()
            .with_owner((!owner.is_empty()).then_some(owner))
            .with_token(token)
            .with_since(time_of(since_us))
            .with_data(data.map(String::into_bytes).or_else(|| data_hex.and_then(|hex| from_hex(&hex))))
    }
}

/// Returns the whole record of a lock that is held from now on.
pub(crate) fn held(
    request: &AcquireRequest,
    token: FencingToken,
    since_us: u64,
    process: Option<RecordedProcess>,
) -> Vec<u8> {
    let text = request.data.as_deref().map(std::str::from_utf8);
    let body = Body {
        name: request.name.as_str().into(),
        id: request.id.to_string(),
        token: token.get(),
        owner: request.owner.clone(),
        since_us,
        permits: match request.mode {
            Mode::Permit { of } => Some(of),
            _ => None,
        },
        process,
        data: text.and_then(Result::ok).map(Into::into),
        data_hex: request.data.as_deref().filter(|_| text.is_some_and(|t| t.is_err())).map(to_hex),
    };
    held_bytes(&body)
}

/// Returns the record of a lock whose holders are in the file of the parts, from `token` on.
///
/// It has room for the record of an exclusive holder, which replaces it in place on a full disk.
pub(crate) fn joined(name: &LockName, token: FencingToken) -> Vec<u8> {
    let body = Body { name: name.as_str().into(), token: token.get(), ..Body::default() };
    let mut bytes = with_head(RecordState::Joined, &body);
    bytes.resize(bytes.len() + STEP_BYTES, b' ');
    bytes
}

/// Returns the record of a held lock with another token.
pub(crate) fn raised(record: Record, token: FencingToken) -> Vec<u8> {
    held_bytes(&Body { token: token.get(), ..record.body })
}

fn held_bytes(body: &Body) -> Vec<u8> {
    with_head(RecordState::Held, body)
}

fn with_head(state: RecordState, body: &Body) -> Vec<u8> {
    let mut bytes = head(state).into_bytes();
    serde_json::to_writer(&mut bytes, body).expect("strings and numbers are JSON, and a Vec takes all");
    bytes.resize((bytes.len() + 1).next_multiple_of(STEP_BYTES) - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// Returns the first line of a lock that was released at `now_us` with a minimum hold of
/// `hold_for`.
pub(crate) fn released(now_us: u64, hold_for: Duration) -> String {
    if hold_for.is_zero() {
        return head(RecordState::Released(MinHold::default()));
    }
    let for_us = u64::try_from(hold_for.as_micros()).unwrap_or(MAX_DIGITS).clamp(1, MAX_DIGITS);
    head(RecordState::Released(MinHold { until_us: now_us.saturating_add(for_us).min(MAX_DIGITS), for_us }))
}

fn head(state: RecordState) -> String {
    let (word, MinHold { until_us, for_us }) = match state {
        RecordState::Held => ("held", MinHold::default()),
        RecordState::Joined => ("joined", MinHold::default()),
        RecordState::Released(hold) => ("released", hold),
    };
    format!("onelock/1 {word:<8} {until_us:016} {for_us:016}\n")
}

fn parse_head(head: &[u8]) -> Option<RecordState> {
    let head = std::str::from_utf8(head).ok()?.strip_prefix("onelock/1 ")?.strip_suffix('\n')?;
    let (word, numbers) = head.split_at_checked(8)?;
    let (until_us, for_us) = numbers.strip_prefix(' ')?.split_once(' ')?;
    match word {
        "held    " => Some(RecordState::Held),
        "joined  " => Some(RecordState::Joined),
        "released" => {
            Some(RecordState::Released(MinHold { until_us: until_us.parse().ok()?, for_us: for_us.parse().ok()? }))
        }
        _ => None,
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hex(hex: &str) -> Option<Vec<u8>> {
    hex.as_bytes().chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use lock_core::{LockName, backend::LeaseId};
    use proptest::prelude::*;

    use super::*;

    fn request(data: Option<&[u8]>) -> AcquireRequest {
        AcquireRequest::new(LockName::new("etl").expect("a valid name"), LeaseId::from(7), "me:1")
            .with_data(data.map(Into::into))
    }

    fn token(n: u64) -> FencingToken {
        FencingToken::new(n).expect("a small number")
    }

    fn released_at(now_us: u64, hold_for: Duration) -> Record {
        let mut bytes = held(&request(None), token(9), 5, None);
        let head = released(now_us, hold_for);
        bytes[..head.len()].copy_from_slice(head.as_bytes());
        Record::parse(&bytes).expect("a record that was released is a record")
    }

    #[test]
    fn a_record_keeps_the_holder_and_text_or_binary_data() {
        for data in [None, Some(&b"{\"k\":1}\n"[..]), Some(&[0, 0xff, 0x80][..]), Some(&[][..])] {
            let record = Record::parse(&held(&request(data), token(9), 5, None)).unwrap();
            assert_eq!((record.state, record.body.name.as_str()), (RecordState::Held, "etl"));
            let holder = record.into_holder();
            assert_eq!(holder.owner.as_deref(), Some("me:1"));
            assert_eq!(holder.token, Some(token(9)));
            assert_eq!(holder.since, Some(SystemTime::UNIX_EPOCH + Duration::from_micros(5)));
            assert_eq!(holder.data.as_deref(), data);
        }
    }

    #[test]
    fn every_first_line_has_the_fixed_width() {
        for line in [
            head(RecordState::Held),
            head(RecordState::Joined),
            released(0, Duration::ZERO),
            released(u64::MAX, Duration::MAX),
        ] {
            assert_eq!(line.len(), HEAD_BYTES, "{line}");
            assert!(parse_head(line.as_bytes()).is_some(), "{line}");
        }
    }

    #[test]
    fn a_minimum_hold_survives_only_small_clock_setbacks() {
        let hour = Duration::from_secs(3600);
        let record = released_at(1_000_000, hour);
        assert_eq!(record.hold_left(1_000_000), Some(hour));
        assert_eq!(record.hold_left(3_600_000_000), Some(Duration::from_secs(1)));
        assert_eq!(record.hold_left(3_601_000_000), None, "the hold has ended");
        assert_eq!(record.hold_left(999_999), Some(hour + Duration::from_micros(1)), "the clock was set back a little");
        let short = released_at(100_000_000, Duration::from_secs(1));
        assert_eq!(short.hold_left(40_000_000), Some(Duration::from_secs(61)), "the clock was set back by a minute");
        assert_eq!(short.hold_left(39_999_999), None, "the clock was set back by more than a minute and the hold");
        assert_eq!(released_at(1, Duration::ZERO).hold_left(0), None);
    }

    #[test]
    fn torn_foreign_and_huge_records_are_garbage() {
        let whole = held(&request(None), token(9), 5, None);
        let json_end = whole.iter().rposition(|&b| b == b'}').expect("the JSON object ends");
        for cut in 0..=json_end {
            assert!(Record::parse(&whole[..cut]).is_err(), "cut at {cut}");
        }
        assert!(Record::parse(&vec![b' '; MAX_BYTES + 1]).is_err());
        assert!(Record::parse(&[0; 512]).is_err());
        assert!(Record::parse(b"4711\n").is_err());
        let text = String::from_utf8(whole).unwrap();
        assert!(Record::parse(text.replace("\"token\":9", "\"token\":9007199254740992").as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200), with_head: bool) {
            if with_head {
                bytes.splice(0..0, head(RecordState::Held).bytes());
            }
            let _ = Record::parse(&bytes);
        }

        #[test]
        fn any_data_survives(data in prop::collection::vec(any::<u8>(), 0..300)) {
            let record = Record::parse(&held(&request(Some(&data)), token(1), 0, None)).unwrap();
            prop_assert_eq!(record.into_holder().data, Some(data));
        }
    }
}
