//! The content of a lock's object.
//!
//! ```json
//! {"onelock":1,"name":"etl","id":"…","owner":"etl-7:42","token":17…,"seq":3,"ttl_ms":30000,
//!  "hold_ms":0,"acquired_us":17…,"nonce":"…"}
//! ```
//!
//! The object stays after a release, because it keeps the token. Its age is that of the object, by
//! the store's clock, so every write begins a lease anew.

use std::time::{Duration, SystemTime};

use lock_core::{
    FencingToken, Holder, LockName,
    backend::{AcquireRequest, LeaseId},
};
use serde::{Deserialize, Serialize};

/// How much of an object is read, and therefore the limit for writing.
pub(crate) const MAX_BYTES: usize = 256 * 1024;
/// `Date` and `Last-Modified` are whole seconds, so their difference may be a second too large.
const RESOLUTION: Duration = Duration::from_secs(1);
const VERSION: u32 = 1;

/// The record of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    onelock: u32,
    name: String,
    /// The holder's lease; none while the lock is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The lease that held the lock last, after its release or a break.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<String>,
    #[serde(default)]
    owner: String,
    token: u64,
    /// Counts the writes.
    #[serde(default)]
    seq: u64,
    ttl_ms: u64,
    #[serde(default)]
    hold_ms: u64,
    #[serde(default)]
    acquired_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data_hex: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) broken_by: Option<String>,
    /// Two objects with the same bytes have the same `ETag`, so no two writes have the same bytes.
    nonce: String,
}

impl Record {
    /// Parses the object of `name`.
    ///
    /// # Errors
    /// Why the object is not that lock.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() > MAX_BYTES {
            return Err("it is too large");
        }
        let record: Self = serde_json::from_slice(bytes).map_err(|_| "its content is not the record of a lock")?;
        if record.onelock != VERSION {
            return Err("a later version of onelock wrote it");
        }
        let ids = [&record.id, &record.last].into_iter().flatten();
        if ids.map(|id| id.parse::<LeaseId>()).any(|id| id.is_err()) || FencingToken::new(record.token).is_none() {
            return Err("its record is damaged");
        }
        Ok(record)
    }

    /// Returns the record of `request`, granted with `token` after this record at `now_us`.
    pub(crate) fn granted(previous: Option<&Self>, request: &AcquireRequest, token: FencingToken, now_us: u64) -> Self {
        let text = request.data.as_deref().map(std::str::from_utf8);
        Self {
            onelock: VERSION,
            name: request.name.as_str().into(),
            id: Some(request.id.to_string()),
            last: None,
            owner: request.owner.clone(),
            token: token.get(),
            seq: previous.map_or(0, |record| record.seq).saturating_add(1),
            ttl_ms: millis(request.ttl),
            hold_ms: 0,
            acquired_us: now_us,
            data: text.and_then(Result::ok).map(Into::into),
            data_hex: request.data.as_deref().filter(|_| text.is_some_and(|text| text.is_err())).map(to_hex),
            broken_by: None,
            nonce: nonce(),
        }
    }

    fn rewritten(&self) -> Self {
        Self { seq: self.seq.saturating_add(1), nonce: nonce(), ..self.clone() }
    }

    pub(crate) fn renewed(&self, ttl: Duration) -> Self {
        Self { ttl_ms: millis(ttl), ..self.rewritten() }
    }

    pub(crate) fn with_token(&self, token: FencingToken) -> Self {
        Self { token: self.token.max(token.get()), ..self.rewritten() }
    }

    /// Returns the record of a free lock, which stays refused for `hold_for`.
    pub(crate) fn released(&self, hold_for: Duration) -> Self {
        let last = self.id.clone().or_else(|| self.last.clone());
        Self { id: None, last, hold_ms: millis(hold_for), data: None, data_hex: None, ..self.rewritten() }
    }

    pub(crate) fn broken(&self, by: &str) -> Self {
        Self { broken_by: Some(by.into()), ..self.released(Duration::ZERO) }
    }

    /// Returns the same state as a new object, whose age does not matter.
    pub(crate) fn touched(&self) -> Self {
        Self { ttl_ms: 0, hold_ms: 0, ..self.rewritten() }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers are JSON")
    }

    pub(crate) fn is_of(&self, name: &LockName) -> bool {
        self.name == name.as_str()
    }

    pub(crate) fn name(&self) -> Option<LockName> {
        LockName::new(&self.name).ok()
    }

    pub(crate) fn id(&self) -> Option<LeaseId> {
        self.id.as_deref().and_then(|id| id.parse().ok())
    }

    pub(crate) fn last(&self) -> Option<LeaseId> {
        self.last.as_deref().and_then(|id| id.parse().ok())
    }

    pub(crate) fn token(&self) -> Option<FencingToken> {
        FencingToken::new(self.token)
    }

    /// Returns for how long an object of this age still keeps the lock from other clients; zero if
    /// it does not.
    pub(crate) fn refused_for(&self, age: Duration, skew: Duration) -> Duration {
        let whole = match (&self.id, self.hold_ms) {
            (Some(_), _) => Duration::from_millis(self.ttl_ms).saturating_add(RESOLUTION).saturating_add(skew),
            (None, 0) => Duration::ZERO,
            (None, hold) => Duration::from_millis(hold).saturating_add(RESOLUTION),
        };
        whole.saturating_sub(age)
    }

    /// Describes the holder. `left` is what remains of its lease, and `now_us` the store's time.
    pub(crate) fn holder(&self, left: Duration, now_us: u64) -> Holder {
        let data = self.data.clone().map(String::into_bytes);
        let since = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(self.acquired_us));
        Holder::default()
            .with_owner((!self.owner.is_empty()).then(|| self.owner.clone()))
            .with_token(self.token())
            .with_since(since)
            .with_expires_in(left)
            .with_data(data.or_else(|| self.data_hex.as_deref().and_then(from_hex)))
            .with_version(self.id.clone())
            .with_store_time(SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(now_us)))
    }
}

fn nonce() -> String {
    LeaseId::random().to_string()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2).map(std::str::from_utf8);
    digits.map(|pair| u8::from_str_radix(pair.ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(data: Option<Vec<u8>>) -> Record {
        let request = AcquireRequest::new(LockName::new("a").unwrap(), LeaseId::from(7), "me").with_data(data);
        Record::granted(None, &request, FencingToken::new(9).unwrap(), 5)
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn records_survive_text_with_any_data() {
        for data in [None, Some(vec![]), Some(b"plain".to_vec()), Some(vec![0, 255, b'"'])] {
            let parsed = Record::parse(&record(data.clone()).to_bytes()).unwrap();
            assert_eq!((parsed.id(), parsed.holder(Duration::ZERO, 5).data), (Some(LeaseId::from(7)), data));
        }
    }

    #[test]
    fn no_two_writes_have_the_same_bytes() {
        let first = record(None);
        let writes =
            [first.clone(), first.renewed(secs(30)), first.renewed(secs(30)), first.touched(), first.touched()];
        for (i, write) in writes.iter().enumerate() {
            assert!(writes[..i].iter().all(|other| other.to_bytes() != write.to_bytes()));
        }
    }

    #[test]
    fn whole_seconds_never_end_a_lease_early() {
        let held = record(None).renewed(secs(10));
        // Written at the end of a second and read at the start of one, 12 s later, it is 11 s old.
        assert_eq!(held.refused_for(secs(11), secs(2)), secs(2));
        assert_eq!(held.refused_for(secs(12), secs(2)), secs(1));
        assert_eq!(held.refused_for(secs(13), secs(2)), Duration::ZERO);
        let kept = held.released(secs(3));
        assert_eq!((kept.refused_for(secs(3), secs(2)), kept.refused_for(secs(4), secs(2))), (secs(1), Duration::ZERO));
        assert_eq!(held.released(Duration::ZERO).refused_for(Duration::ZERO, secs(2)), Duration::ZERO);
    }

    #[test]
    fn foreign_objects_are_not_parsed() {
        let good = String::from_utf8(record(None).to_bytes()).unwrap();
        for foreign in [
            "",
            "{}",
            "[]",
            "\0",
            &good.replace("\"onelock\":1", "\"onelock\":2"),
            &good.replace(":9,", ":99999999999999999,"),
            &good.replace("00007\"", "\""),
        ] {
            assert!(Record::parse(foreign.as_bytes()).is_err(), "{foreign}");
        }
        assert!(Record::parse(&vec![b' '; MAX_BYTES + 1]).is_err());
    }
}
