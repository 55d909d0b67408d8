//! Reads the parts of a lock with several holders, and the mark of a waiting request.

use std::{collections::HashMap, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use lock_core::{FencingToken, Holder, Mode, backend::LeaseId};

use super::{data_of, fence_of, system_time};
use crate::attributes::Attribute;

/// The texts of the modes in an item. The number of permits follows the last one.
const EXCLUSIVE: &str = "exclusive";
const SHARED: &str = "shared";
const PERMITS: &str = "permits ";

/// The holders of a lock that several may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joined {
    /// `None` if it cannot be read. Then no holder may join.
    pub(crate) mode: Option<Mode>,
    pub(crate) parts: Vec<Part>,
}

/// The part of one holder. It is kept for a while after its release, so that a late request of its
/// id is recognized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) id: LeaseId,
    pub(crate) lease: Option<Duration>,
    /// The expiry on the store's clock, in milliseconds.
    pub(crate) expires: Option<i64>,
    /// When a released part becomes free, on the store's clock, in milliseconds. `None` if the part
    /// is held.
    pub(crate) free_at: Option<i64>,
    /// Whether it was ended without a minimum hold, so that it is free whatever the clocks say.
    pub(crate) is_over: bool,
    pub(crate) fence: Option<FencingToken>,
    pub(crate) broken_by: Option<String>,
    owner: Option<String>,
    since: Option<i64>,
    data: Option<Vec<u8>>,
}

/// A request that waits for holders of another mode, or in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) id: LeaseId,
    pub(crate) mode: Option<Mode>,
    /// Until when later requests have to wait for it, on the store's clock, in milliseconds.
    pub(crate) until: i64,
    owner: Option<String>,
}

type Map = HashMap<String, AttributeValue>;

fn number(map: &Map, attribute: Attribute) -> Option<i64> {
    map.get(attribute.as_str())?.as_n().ok()?.parse().ok()
}

fn text(map: &Map, attribute: Attribute) -> Option<String> {
    map.get(attribute.as_str())?.as_s().ok().cloned()
}

/// The text of a mode in an item.
pub(crate) fn mode_text(mode: Mode) -> String {
    match mode {
        Mode::Permit { of } => format!("{PERMITS}{of}"),
        Mode::Shared => SHARED.to_owned(),
        _ => EXCLUSIVE.to_owned(),
    }
}

fn read_mode(text: &str) -> Option<Mode> {
    match text {
        SHARED => Some(Mode::Shared),
        EXCLUSIVE => Some(Mode::Exclusive),
        text => text.strip_prefix(PERMITS)?.parse().ok().map(|of| Mode::Permit { of }),
    }
}

impl Joined {
    /// Reads the values of the attributes. A part that cannot be read stays held.
    pub(super) fn read(mode: Option<&AttributeValue>, parts: &AttributeValue) -> Option<Self> {
        let mode = mode.and_then(|mode| mode.as_s().ok()).and_then(|mode| read_mode(mode));
        let parts = parts.as_m().ok()?.iter().map(|(id, part)| Part::read(id, part));
        let mut parts: Vec<_> = parts.collect::<Option<_>>()?;
        parts.sort_unstable_by_key(|part| (part.since, part.id.to_string()));
        Some(Self { mode, parts })
    }

    pub(crate) fn part(&self, id: LeaseId) -> Option<&Part> {
        self.parts.iter().find(|part| part.id == id)
    }
}

impl Part {
    fn read(id: &str, part: &AttributeValue) -> Option<Self> {
        let (id, map) = (id.parse().ok()?, part.as_m().ok()?);
        let lease = number(map, Attribute::Ttl).and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
        Some(Self {
            id,
            lease,
            expires: number(map, Attribute::Expires),
            free_at: number(map, Attribute::FreeAt),
            is_over: text(map, Attribute::Released).as_deref() == Some(super::RELEASED),
            fence: map.get(Attribute::Fence.as_str()).map(fence_of),
            broken_by: text(map, Attribute::BrokenBy),
            owner: text(map, Attribute::Owner),
            since: number(map, Attribute::Since),
            data: map.get(Attribute::Data.as_str()).and_then(data_of),
        })
    }

    /// Whether its holder has neither released it nor lost it to an operator.
    pub(crate) fn is_held(&self) -> bool {
        self.free_at.is_none()
    }

    /// Describes the holder for other clients; the part becomes free in `free_in`.
    pub(crate) fn holder(&self, mode: Option<Mode>, free_in: Option<Duration>) -> Holder {
        Holder::default()
            .with_owner(self.owner.clone())
            .with_token(self.fence)
            .with_since(self.since.and_then(system_time))
            .with_expires_in(free_in)
            .with_data(self.data.clone())
            .with_mode(mode.unwrap_or_default())
    }
}

impl Waiting {
    pub(super) fn read(value: &AttributeValue) -> Option<Self> {
        let map = value.as_m().ok()?;
        Some(Self {
            id: text(map, Attribute::Version)?.parse().ok()?,
            mode: text(map, Attribute::Mode).and_then(|mode| read_mode(&mode)),
            until: number(map, Attribute::Expires)?,
            owner: text(map, Attribute::Owner),
        })
    }

    /// Describes the waiting request; later requests wait for it for `left` at most.
    pub(crate) fn holder(&self, left: Duration) -> Holder {
        let holder = Holder::default().with_owner(self.owner.clone()).with_expires_in(left);
        holder.with_mode(self.mode.unwrap_or_default())
    }
}
