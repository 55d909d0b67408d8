//! Reads the state of a lock from its item.

mod joined;
mod places;

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use aws_sdk_dynamodb::types::AttributeValue;
use lock_core::{
    FencingToken, Holder,
    backend::{End, LeaseId, PastHolder, StoreTime},
};

pub(crate) use self::{
    joined::{Joined, Part, Waiting, mode_text},
    places::Place,
};
use crate::attributes::{Attribute, Layout, Schema};

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
#[derive(Debug, Clone, PartialEq)]
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
    /// The largest token if the token cannot be read, so that no smaller one follows it.
    pub(crate) fence: Option<FencingToken>,
    pub(crate) broken: Option<(LeaseId, String)>,
    owner: Option<String>,
    since: Option<i64>,
    data: Option<Vec<u8>>,
    /// The holders, if several may hold the lock. Then the fields of a single holder say nothing.
    pub(crate) joined: Option<Joined>,
    pub(crate) waiting: Option<Waiting>,
    /// Whether there is a mark that cannot be read. No request waits for it.
    pub(crate) has_odd_mark: bool,
    /// The queue of fair requests.
    pub(crate) places: Vec<Place>,
    foreign: Option<&'static str>,
    /// Whether onelock or the client of the schema wrote the item, so that it may be changed.
    is_known: bool,
}

/// What holds the name of a lock whose item is not a lock.
const STRANGER: &str = "an item that is not a lock";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockState {
    Held,
    /// Released, but not free until then, in milliseconds on the store's clock.
    FreeAt(i64),
    Released,
}

impl Record {
    /// Reads an item. An item of another application is never free, and its lease never ends.
    pub(crate) fn read(item: &Item, layout: &Layout) -> Self {
        let get = |attr| item.get(layout.name(attr));
        let Some(AttributeValue::S(version)) = get(Attribute::Version) else { return Self::stranger() };
        let version = version.clone();
        let id = lease_id(&version);
        // Beside a single holder, which alone has a ttl, parts were left by holders before it.
        let is_joined = id.is_some() && layout.has_modes() && get(Attribute::Ttl).is_none();
        let parts = get(Attribute::Parts).filter(|_| is_joined);
        let joined = parts.map(|parts| Joined::read(get(Attribute::Mode), parts));
        if let Some(None) = joined {
            return Self::stranger();
        }
        let mark = get(Attribute::Waiting).filter(|_| layout.has_modes());
        let waiting = mark.and_then(Waiting::read);
        let is_known = id.is_some() || (layout.schema != Schema::Native && get(Attribute::Lease).is_some());
        let number = |attr| get(attr).and_then(|v| v.as_n().ok()).and_then(|n| n.parse::<i64>().ok());
        let text = |attr| get(attr).and_then(|v| v.as_s().ok()).cloned();
        let ours = |value: Option<i64>| value.filter(|_| id.is_some());
        let own_lease = ours(number(Attribute::Ttl)).and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
        let foreign_lease = || get(Attribute::Lease).and_then(|value| layout.schema.decode_lease(value));
        // Python's client deletes released items; an item that has this attribute by chance is not
        // released.
        let released =
            is_known && text(Attribute::Released).as_deref() == Some(RELEASED) && !layout.schema.deletes_on_release();
        let state = match ours(number(Attribute::FreeAt)) {
            _ if released => LockState::Released,
            Some(at) => LockState::FreeAt(at),
            None => LockState::Held,
        };
        Self {
            id,
            state,
            lease: own_lease.or_else(foreign_lease),
            expires: ours(number(Attribute::Expires)),
            fence: get(Attribute::Fence).map(fence_of),
            broken: text(Attribute::BrokenId).and_then(|id| id.parse().ok()).zip(text(Attribute::BrokenBy)),
            owner: text(Attribute::Owner),
            since: ours(number(Attribute::Since)),
            data: get(Attribute::Data).and_then(data_of),
            joined: joined.flatten(),
            has_odd_mark: mark.is_some() && waiting.is_none(),
            waiting,
            places: get(Attribute::Places).filter(|_| layout.has_queue()).map(Place::read_all).unwrap_or_default(),
            foreign: id.is_none().then(|| layout.schema.client()),
            version,
            is_known,
        }
    }

    fn stranger() -> Self {
        Self {
            version: String::new(),
            id: None,
            state: LockState::Held,
            lease: None,
            expires: None,
            fence: None,
            broken: None,
            owner: None,
            since: None,
            data: None,
            joined: None,
            waiting: None,
            has_odd_mark: false,
            places: Vec::new(),
            foreign: Some(STRANGER),
            is_known: false,
        }
    }

    /// Whether the item lacks what every lock has, so that another application wrote it.
    pub(crate) fn is_stranger(&self) -> bool {
        self.foreign == Some(STRANGER)
    }

    pub(crate) fn is_held_by(&self, id: LeaseId) -> bool {
        match &self.joined {
            Some(joined) => joined.part(id).is_some_and(Part::is_held),
            None => self.state == LockState::Held && self.id == Some(id),
        }
    }

    /// Describes the holder for other clients; the lock becomes free in `free_in`.
    pub(crate) fn holder(&self, free_in: Option<Duration>) -> Holder {
        let breakable = self.state == LockState::Held && self.is_known;
        Holder::default()
            .with_owner(self.owner.clone())
            .with_token(self.fence.filter(|_| self.id.is_some()))
            .with_since(self.since.and_then(system_time))
            .with_expires_in(free_in)
            .with_data(self.data.clone())
            // Heartbeats change the version of a record, but not whose it is: a living holder must
            // be breakable.
            .with_version(breakable.then(|| self.id.map_or_else(|| self.version.clone(), |id| id.to_string())))
            .with_foreign(self.foreign.map(Into::into))
    }

    /// Describes the last holder of a free lock.
    pub(crate) fn past_holder(&self) -> PastHolder {
        let (end, ended_at) = match (&self.broken, self.state) {
            (_, LockState::Held) => (End::Crashed, self.expires.and_then(system_time)),
            (Some((broken, by)), _) if self.id == Some(*broken) => (End::BrokenBy(by.clone()), None),
            _ => (End::Released, None),
        };
        PastHolder::new(self.holder(None).with_version(None), end).with_ended_at(ended_at)
    }

    /// Time from `now` to a moment of the store's clock; zero when it has passed.
    pub(crate) fn until(now: StoreTime, millis: i64) -> Duration {
        let left = millis.saturating_mul(1_000).saturating_sub(now.micros);
        Duration::from_micros(u64::try_from(left).unwrap_or(0))
    }
}

/// Returns the token in an item; the largest one if it cannot be read.
fn fence_of(value: &AttributeValue) -> FencingToken {
    let number = value.as_n().ok().and_then(|number| number.parse().ok());
    number.and_then(FencingToken::new).unwrap_or(FencingToken::MAX)
}

fn data_of(value: &AttributeValue) -> Option<Vec<u8>> {
    match value {
        AttributeValue::B(bytes) => Some(bytes.clone().into_inner()),
        AttributeValue::S(text) => Some(text.clone().into_bytes()),
        _ => None,
    }
}

fn system_time(millis: i64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(u64::try_from(millis).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let record = Record::read(&stale, &layout);
        assert_eq!(
            (record.state, record.expires, record.lease),
            (LockState::Held, None, Some(Duration::from_secs(20)))
        );
        let holder = record.holder(None);
        assert_eq!(holder.version.as_deref(), Some("1700000000000000000:MZXW6"));
        assert_eq!(holder.foreign.as_deref(), Some("a lock of dynamolock (Go)"));
    }

    #[test]
    fn items_of_other_applications_are_held_and_not_breakable() {
        for &schema in Schema::ALL {
            let layout = Layout::of(schema);
            let (version, released) = (layout.name(Attribute::Version), layout.name(Attribute::Released));
            for (pairs, stranger) in [
                (vec![("note", s("kept"))], true),
                (vec![(version, n(7)), (released, s("1"))], true),
                (vec![(version, s("1.2.3")), (released, s("1")), (layout.name(Attribute::Ttl), n(1))], false),
            ] {
                let record = Record::read(&item(&pairs), &layout);
                assert_eq!((record.state, record.lease, record.is_stranger()), (LockState::Held, None, stranger));
                let holder = record.holder(None);
                assert!(holder.version.is_none() && holder.foreign.is_some(), "{schema}: {holder:?}");
            }
        }
    }

    #[test]
    fn an_unreadable_token_is_followed_by_none() {
        for token in [AttributeValue::N("1E38".into()), n(-1), s("text"), n(i64::MAX)] {
            let record = Record::read(
                &item(&[("version", s(&version(LeaseId::random()))), ("fence", token)]),
                &Layout::of(Schema::Native),
            );
            assert_eq!(record.fence.and_then(|token| FencingToken::next(Some(token), 0)), None);
        }
    }
}
