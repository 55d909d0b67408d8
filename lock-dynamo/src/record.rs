//! Reads the state of a lock from its item.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use aws_sdk_dynamodb::types::AttributeValue;
use lock_core::{
    Error, ErrorKind, FencingToken, Holder,
    backend::{LeaseId, StoreTime},
};

use crate::attributes::{Attribute, Layout};

pub(crate) type Item = HashMap<String, AttributeValue>;

/// The value of [`Attribute::Released`] in a released item.
pub(crate) const RELEASED: &str = "1";

/// The number of hexadecimal digits in a version that change with every write.
const NEW_DIGITS: usize = 16;

/// Creates a version: the lease id and a random part that changes with every write, so that
/// observers see a heartbeat.
pub(crate) fn version(id: LeaseId) -> String {
    format!("{}{}", version_prefix(id), &LeaseId::random().to_string()[..NEW_DIGITS])
}

/// The prefix of all versions that onelock writes for a lease.
pub(crate) fn version_prefix(id: LeaseId) -> String {
    format!("{id}.")
}

/// The lease id in a version, if onelock wrote it.
fn lease_id(version: &str) -> Option<LeaseId> {
    let (id, rest) = version.split_once('.')?;
    (rest.len() == NEW_DIGITS && rest.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.parse().ok()).flatten()
}

/// The state of a lock, read from an item that has a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) version: String,
    /// `None` if a foreign client was the last to write the item.
    pub(crate) id: Option<LeaseId>,
    pub(crate) state: LockState,
    /// How long an observer has to see an unchanged version before it may take over. `None` if the
    /// record states no readable lease.
    pub(crate) lease: Option<Duration>,
    /// The expiry on the store's clock, in milliseconds. `None` if a foreign client wrote last,
    /// because it leaves a stale value behind.
    pub(crate) expires: Option<i64>,
    pub(crate) fence: Option<FencingToken>,
    pub(crate) broken: Option<(LeaseId, String)>,
    owner: Option<String>,
    since: Option<i64>,
    data: Option<Vec<u8>>,
    foreign: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockState {
    Held,
    /// Released, but not free until then, in milliseconds on the store's clock.
    FreeAt(i64),
    Released,
}

impl Record {
    /// Reads an item; `None` if the item is not a lock.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Corrupt`] if the version attribute is not a string.
    pub(crate) fn read(item: &Item, layout: &Layout) -> Result<Option<Self>, Error> {
        let get = |attr| item.get(layout.name(attr));
        let version = match get(Attribute::Version) {
            None => return Ok(None),
            Some(AttributeValue::S(version)) => version.clone(),
            Some(_) => return Err(corrupt(layout)),
        };
        let id = lease_id(&version);
        let number = |attr| get(attr).and_then(|v| v.as_n().ok()).and_then(|n| n.parse::<i64>().ok());
        let text = |attr| get(attr).and_then(|v| v.as_s().ok()).cloned();
        let ours = |value: Option<i64>| value.filter(|_| id.is_some());
        let own_lease = ours(number(Attribute::Ttl)).and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
        let foreign_lease = || get(Attribute::Lease).and_then(|value| layout.schema.decode_lease(value));
        // Python's client deletes released items; an item that has this attribute by chance is not
        // released.
        let released = text(Attribute::Released).as_deref() == Some(RELEASED) && !layout.schema.deletes_on_release();
        let state = match ours(number(Attribute::FreeAt)) {
            _ if released => LockState::Released,
            Some(at) => LockState::FreeAt(at),
            None => LockState::Held,
        };
        Ok(Some(Self {
            id,
            state,
            lease: own_lease.or_else(foreign_lease),
            expires: ours(number(Attribute::Expires)),
            fence: number(Attribute::Fence).and_then(|n| u64::try_from(n).ok()).and_then(FencingToken::new),
            broken: text(Attribute::BrokenId).and_then(|id| id.parse().ok()).zip(text(Attribute::BrokenBy)),
            owner: text(Attribute::Owner),
            since: ours(number(Attribute::Since)),
            data: get(Attribute::Data).and_then(|data| match data {
                AttributeValue::B(bytes) => Some(bytes.clone().into_inner()),
                AttributeValue::S(text) => Some(text.clone().into_bytes()),
                _ => None,
            }),
            foreign: id.is_none().then(|| layout.schema.client()),
            version,
        }))
    }

    pub(crate) fn is_held_by(&self, id: LeaseId) -> bool {
        self.state == LockState::Held && self.id == Some(id)
    }

    /// Describes the holder for other clients; the lock becomes free in `free_in`.
    pub(crate) fn holder(&self, free_in: Option<Duration>) -> Holder {
        let held = self.state == LockState::Held;
        Holder::default()
            .with_owner(self.owner.clone())
            .with_token(self.fence.filter(|_| self.id.is_some()))
            .with_since(self.since.and_then(system_time))
            .with_expires_in(free_in)
            .with_data(self.data.clone())
            // Heartbeats change the version of a record, but not whose it is: a living holder must
            // be breakable.
            .with_version(held.then(|| self.id.map_or_else(|| self.version.clone(), |id| id.to_string())))
            .with_foreign(self.foreign.map(Into::into))
    }

    /// Time from `now` to a moment of the store's clock; zero when it has passed.
    pub(crate) fn until(now: StoreTime, millis: i64) -> Duration {
        let left = millis.saturating_mul(1_000).saturating_sub(now.micros);
        Duration::from_micros(u64::try_from(left).unwrap_or(0))
    }
}

fn system_time(millis: i64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(u64::try_from(millis).ok()?))
}

fn corrupt(layout: &Layout) -> Error {
    let message = format!(
        "the item's attribute \"{}\" is not a string, so no lock client wrote it; inspect the item, and delete it if it is not needed",
        layout.name(Attribute::Version)
    );
    Error::new(ErrorKind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Schema;

    fn item(pairs: &[(&str, AttributeValue)]) -> Item {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn s(text: &str) -> AttributeValue {
        AttributeValue::S(text.into())
    }

    fn n(number: i64) -> AttributeValue {
        AttributeValue::N(number.to_string())
    }

    #[test]
    fn versions_carry_the_lease_id_and_never_repeat() {
        let id = LeaseId::random();
        assert_ne!(version(id), version(id));
        assert_eq!(lease_id(&version(id)), Some(id));
        for foreign in ["", "4b3c5f3e-8f1f-4c8a-9d6e-000000000000", "1700000000000000000:MZXW6", &id.to_string()] {
            assert_eq!(lease_id(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn our_stale_attributes_are_ignored_after_foreign_takeover() {
        // dynamolock merges the attributes of the holder before into its own item.
        let layout = Layout::of(Schema::Go);
        let stale = item(&[
            ("recordVersionNumber", s("1700000000000000000:MZXW6")),
            ("ownerName", s("go")),
            ("leaseDuration", s("20s")),
            ("onelock_expires_at", n(1)),
            ("onelock_ttl_ms", n(1)),
            ("onelock_free_at", n(1)),
        ]);
        let record = Record::read(&stale, &layout).unwrap().unwrap();
        assert_eq!(
            (record.state, record.expires, record.lease),
            (LockState::Held, None, Some(Duration::from_secs(20)))
        );
        let holder = record.holder(None);
        assert_eq!(holder.version.as_deref(), Some("1700000000000000000:MZXW6"));
        assert_eq!(holder.foreign.as_deref(), Some("a lock of dynamolock (Go)"));
    }

    #[test]
    fn item_without_a_string_version_is_no_lock_or_corrupt() {
        let layout = Layout::of(Schema::Native);
        assert_eq!(Record::read(&item(&[("key", s("a")), ("note", s("kept"))]), &layout).unwrap(), None);
        let error = Record::read(&item(&[("version", n(7))]), &layout).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("\"version\""), "{error}");
    }
}
