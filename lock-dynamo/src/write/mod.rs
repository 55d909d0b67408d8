//! Builds the conditional writes as DynamoDB expressions.

mod clauses;
mod joined;
mod queue;

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use lock_core::{
    FencingToken,
    backend::{AcquireRequest, Lease, LeaseId, StoreTime},
};

use self::clauses::{number, text};
pub(crate) use self::joined::{NewPart, part_end};
use crate::{
    attributes::{Attribute, Layout},
    record::{self, Record},
};

/// An update or delete of one item, under a condition.
#[derive(Debug)]
pub(crate) struct ConditionalWrite<'a> {
    pub(crate) layout: &'a Layout,
    style: Style,
    pub(crate) names: HashMap<String, String>,
    pub(crate) values: HashMap<String, AttributeValue>,
    set: String,
    remove: String,
    pub(crate) condition: String,
    /// The version of the item after the write.
    pub(crate) version: String,
}

/// How an expression names attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// By their plain names, where DynamoDB accepts them: fewer bytes to send and parse.
    Plain,
    /// By placeholders only.
    Placeholders,
}

/// How long an idle item stays before DynamoDB may collect it, counted from the end of its lease;
/// see [`DynamoConfig::collect_after`](crate::DynamoConfig::collect_after).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idle(pub(crate) Duration);

impl<'a> ConditionalWrite<'a> {
    fn new(layout: &'a Layout, version: String) -> Self {
        Self::in_style(layout, version, Style::Plain)
    }

    fn in_style(layout: &'a Layout, version: String, style: Style) -> Self {
        let (names, values) = (HashMap::with_capacity(12), HashMap::with_capacity(16));
        let (set, remove, condition) = (String::with_capacity(192), String::new(), String::with_capacity(160));
        let mut write = Self { layout, style, names, values, set, remove, condition, version };
        let version = AttributeValue::S(write.version.clone());
        write.set(Attribute::Version, version);
        write
    }

    /// A write that leaves the version alone.
    fn without_version(layout: &'a Layout) -> Self {
        let mut write = Self::new(layout, String::new());
        write.values.clear();
        write.names.clear();
        write.set.clear();
        write
    }

    /// Takes a free lock: there is no item, or it is released, and its last token is below all that
    /// the grant reserves. `token` is the last of these. With `queued` the request has the first
    /// place of the queue, which ends, and otherwise there is no place.
    pub(crate) fn take_free(
        layout: &'a Layout,
        request: &AcquireRequest,
        now: StoreTime,
        token: FencingToken,
        idle: Idle,
        unmark: bool,
        queued: bool,
    ) -> Self {
        let mut write = Self::new(layout, record::version(request.id));
        let fence = write.grant(request, now, Some(token), idle);
        write.unmark_if(unmark);
        // A third party may have marked a minimum hold as released.
        write.clear_leftovers(request);
        if queued {
            let place = write.place(0);
            write.remove_path(&place);
        } else {
            // An item without a version belongs to another application.
            let key = write.name(Attribute::Key);
            write.condition = format!("attribute_not_exists({key})");
        }
        if !layout.schema.deletes_on_release() {
            let released = write.released();
            // Refuses a request that arrives after the release of its own id.
            let (version, id) = (write.name(Attribute::Version), write.value(text(request.id)));
            let or = if queued { "" } else { " OR " };
            let _ = write!(write.condition, "{or}({released} AND NOT begins_with({version}, {id})");
            if let Some(last) = fence {
                let first = match u64::from(request.reserved_tokens) {
                    0 => last,
                    reserved => write.value(number(token.get().saturating_sub(reserved))),
                };
                let fence = write.name(Attribute::Fence);
                let _ = write!(write.condition, " AND {fence} < {first}");
            }
            if layout.has_queue() {
                let first = write.first_place_is(queued.then_some(request.id));
                let _ = write!(write.condition, " AND {first}");
            }
            if layout.has_modes() {
                // An earlier version, or a third party, marks an item with holders as released.
                let parts = write.name(Attribute::Parts);
                let _ = write!(write.condition, " AND attribute_not_exists({parts})");
            }
            write.condition.push(')');
        }
        write
    }

    /// Takes over a lock whose record was judged, if the record is unchanged.
    pub(crate) fn take_over(
        layout: &'a Layout,
        request: &AcquireRequest,
        now: StoreTime,
        token: Option<FencingToken>,
        idle: Idle,
        seen: &Record,
        unmark: bool,
    ) -> Self {
        let mut write = Self::new(layout, record::version(request.id));
        write.grant(request, now, token, idle);
        write.clear_leftovers(request);
        write.replace_joined();
        write.unmark_if(unmark);
        write.require_version(&seen.version);
        write
    }

    /// Renews a held lock from `now`, unless a later renewal has already arrived.
    pub(crate) fn renew(layout: &'a Layout, lease: &Lease, now: StoreTime, idle: Idle) -> Self {
        Self::new(layout, record::version(lease.id)).renewing(lease, now, idle)
    }

    /// Like `renew`, as one statement of a PartiQL batch.
    pub(crate) fn renew_in_batch(layout: &'a Layout, lease: &Lease, now: StoreTime, idle: Idle) -> Self {
        Self::in_style(layout, record::version(lease.id), Style::Placeholders).renewing(lease, now, idle)
    }

    fn renewing(mut self, lease: &Lease, now: StoreTime, idle: Idle) -> Self {
        let ends = self.set_lease(lease.ttl, now, idle);
        self.require_held_by(lease.id);
        // A delayed renewal must not shorten the lease that a later one has extended.
        let (expires, ends) = (self.name(Attribute::Expires), self.value(number(ends)));
        let _ = write!(self.condition, " AND {expires} <= {ends}");
        self
    }

    /// Renews a lock of this version from `now`, to correct an expiry written by a wrong clock.
    pub(crate) fn correct(layout: &'a Layout, lease: &Lease, now: StoreTime, idle: Idle, version: &str) -> Self {
        let mut write = Self::new(layout, record::version(lease.id));
        write.set_lease(lease.ttl, now, idle);
        write.require_version(version);
        write
    }

    /// Like `correct`, for a lock that was just acquired: also corrects its token and time of
    /// acquisition.
    pub(crate) fn correct_grant(
        layout: &'a Layout,
        lease: &Lease,
        now: StoreTime,
        token: FencingToken,
        idle: Idle,
        version: &str,
    ) -> Self {
        let mut write = Self::correct(layout, lease, now, idle, version);
        write.set(Attribute::Since, number(now.millis()));
        if layout.fences() {
            write.set(Attribute::Fence, number(token.get()));
        }
        write
    }

    /// Raises the fencing token of a held lock.
    pub(crate) fn advance_token(layout: &'a Layout, lease: &Lease, token: FencingToken) -> Self {
        let mut write = Self::new(layout, record::version(lease.id));
        let token = write.set(Attribute::Fence, number(token.get()));
        write.require_held_by(lease.id);
        let fence = write.name(Attribute::Fence);
        let _ = write!(write.condition, " AND {fence} < {token}");
        write
    }

    /// Releases a held lock, which becomes free after `hold_for`. The release does not change when
    /// DynamoDB may collect the item, unless `hold_for` moves the expiry.
    pub(crate) fn release(layout: &'a Layout, lease: &Lease, hold_for: Duration, now: StoreTime, idle: Idle) -> Self {
        let mut write = Self::new(layout, record::version(lease.id));
        if hold_for.is_zero() {
            write.set(Attribute::Released, text(record::RELEASED));
            write.remove(Attribute::Data);
        } else {
            // Foreign clients see a dead holder with a lease of that length.
            let free_at = write.set_lease(hold_for, now, idle);
            write.set(Attribute::FreeAt, number(free_at));
        }
        write.require_held_by(lease.id);
        write
    }

    /// The condition of [`release`](Self::release) alone, for schemas that delete.
    pub(crate) fn delete(layout: &'a Layout, lease: &Lease) -> Self {
        let mut write = Self::without_version(layout);
        write.require_held_by(lease.id);
        write
    }

    /// The condition for deleting a free item; only for schemas that keep released items.
    pub(crate) fn forget(layout: &'a Layout) -> Self {
        let mut write = Self::without_version(layout);
        // An item that is not a lock belongs to another application.
        let (key, released) = (write.name(Attribute::Key), write.released());
        write.condition = format!("attribute_not_exists({key}) OR ({released}");
        if layout.has_queue() {
            let empty = write.first_place_is(None);
            let _ = write!(write.condition, " AND {empty}");
        }
        write.require_no_parts();
        write.condition.push(')');
        write
    }

    /// Breaks the lock of the holder that `seen` names, and records the operator for that holder.
    pub(crate) fn break_lock(layout: &'a Layout, seen: &str, by: &str, now: StoreTime, idle: Idle) -> Self {
        let id = seen.parse::<LeaseId>().ok();
        let mut write = Self::new(layout, record::version(id.unwrap_or_else(LeaseId::random)));
        write.set(Attribute::Released, text(record::RELEASED));
        write.remove(Attribute::Data);
        write.collect(now, Duration::ZERO, idle);
        match id {
            Some(id) => {
                write.set(Attribute::BrokenId, text(id));
                write.set(Attribute::BrokenBy, text(by));
                write.require_held_by(id);
                // The latest writer may have one of several parts.
                write.require_no_parts();
            }
            None => {
                write.require_version(seen);
                let lease = write.name(Attribute::Lease);
                let _ = write!(write.condition, " AND attribute_exists({lease})");
                write.require_not_released();
            }
        }
        write
    }
}
