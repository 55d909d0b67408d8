//! The conditional writes of locks with several holders, and of the mark of a waiting request.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use lock_core::{
    FencingToken,
    backend::{AcquireRequest, Lease, LeaseId, StoreTime},
};

use super::{ConditionalWrite, Idle, number, text};
use crate::{
    attributes::{Attribute, Layout},
    record::{self, Part, Record, mode_text},
};

/// A part that is about to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewPart<'r> {
    pub(crate) request: &'r AcquireRequest,
    pub(crate) now: StoreTime,
    pub(crate) token: FencingToken,
    pub(crate) idle: Idle,
    /// Whether a mark of the request may stand.
    pub(crate) unmark: bool,
}

/// The placeholder of the key of one part.
const ID: &str = "#id";
/// More than any ttl: the item stays for the longest lease of all parts, which no part knows.
const LONGEST_LEASE: Duration = Duration::from_secs(400 * 24 * 3600);
/// The placeholder of the mode in a mark, whose name is a reserved word.
const MODE_KEY: &str = "#mode_key";

impl<'a> ConditionalWrite<'a> {
    /// Takes a lock that has no item, as the first of possibly several holders.
    pub(crate) fn take_missing_as_part(layout: &'a Layout, new: NewPart<'_>) -> Self {
        let mut write = Self::new(layout, record::version(new.request.id));
        write.first_part(new);
        let key = write.name(Attribute::Key);
        write.condition = format!("attribute_not_exists({key})");
        write
    }

    /// Takes over a lock whose record was judged to have no holder, if the record and its mark are
    /// unchanged.
    pub(crate) fn take_over_as_part(layout: &'a Layout, new: NewPart<'_>, seen: &Record) -> Self {
        let mut write = Self::new(layout, record::version(new.request.id));
        write.first_part(new);
        // These describe a single holder.
        for attribute in [
            Attribute::Released,
            Attribute::Owner,
            Attribute::Ttl,
            Attribute::Data,
            Attribute::Expires,
            Attribute::Since,
            Attribute::FreeAt,
        ] {
            write.remove(attribute);
        }
        write.unmark_if(new.unmark);
        write.require_version(&seen.version);
        write.require_mark(seen);
        write
    }

    /// Joins the holders of the same mode, if fewer than `room` parts are in the item, the queue is
    /// empty, and no request of another mode waits. A mark is over if it ended before `passed`.
    pub(crate) fn join(layout: &'a Layout, new: NewPart<'_>, room: usize, passed: i64) -> Self {
        let mut write = Self::new(layout, record::version(new.request.id));
        write.add_part(new);
        write.unmark_if(new.unmark);
        let fence = write.set(Attribute::Fence, number(new.token.get()));
        let part = write.part();
        let (mode, parts) = (write.name(Attribute::Mode), write.name(Attribute::Parts));
        let (waiting, fences) = (write.name(Attribute::Waiting), write.name(Attribute::Fence));
        let (wanted, room) = (write.value(text(mode_text(new.request.mode))), write.value(number(room)));
        let (passed, map) = (write.value(number(passed)), write.value(text("M")));
        let empty = write.first_place_is(None);
        // The latest writer is also refused here: its release may have removed its part already.
        let (version, id) = (write.name(Attribute::Version), write.value(text(record::version_prefix(new.request.id))));
        write.condition = format!(
            "{mode} = {wanted} AND attribute_type({parts}, {map}) AND size({parts}) < {room} AND \
             attribute_not_exists({part}) AND {fences} < {fence} AND NOT begins_with({version}, {id}) AND \
             (attribute_not_exists({waiting}) OR {waiting}.{m} = {wanted} OR \
             {waiting}.{e} < {passed}) AND {empty}",
            m = MODE_KEY,
            e = Attribute::Expires,
        );
        write.names.insert(MODE_KEY.into(), Attribute::Mode.to_string());
        write.require_no_single_holder();
        write
    }

    /// Joins the holders of a record that was judged, in place of the parts in `gone`, if the
    /// record and its mark are unchanged. Removes a mark that cannot be read.
    pub(crate) fn replace_parts(layout: &'a Layout, new: NewPart<'_>, seen: &Record, gone: &[&Part]) -> Self {
        let mut write = Self::new(layout, record::version(new.request.id));
        write.add_part(new);
        write.set(Attribute::Fence, number(new.token.get()));
        write.remove_parts(gone);
        write.unmark_if(new.unmark || seen.has_odd_mark);
        write.require_version(&seen.version);
        write.require_mark(seen);
        write
    }

    /// Removes the parts of dead holders after a join wrote this version.
    pub(crate) fn clear(layout: &'a Layout, id: LeaseId, gone: &[&Part], version: &str) -> Self {
        let mut write = Self::new(layout, record::version(id));
        write.remove_parts(gone);
        write.require_version(version);
        write
    }

    /// Renews a part from `now`, unless a later renewal has already arrived.
    pub(crate) fn renew_part(layout: &'a Layout, lease: &Lease, now: StoreTime, idle: Idle) -> Self {
        let mut write = Self::new(layout, record::version(lease.id));
        let ends = write.set_part_lease(lease.ttl, now, idle);
        write.require_part(lease.id);
        let part = write.part();
        let _ = write!(write.condition, " AND {part}.{} <= {ends}", Attribute::Expires);
        write
    }

    /// Renews a part from `now` that ends at `seen`, and corrects its token if one is given: a
    /// wrong clock wrote them. A delayed correction must not shorten a lease that was renewed
    /// meanwhile.
    pub(crate) fn correct_part(
        layout: &'a Layout,
        lease: &Lease,
        now: StoreTime,
        idle: Idle,
        seen: i64,
        token: Option<FencingToken>,
    ) -> Self {
        let mut write = Self::new(layout, record::version(lease.id));
        write.set_part_lease(lease.ttl, now, idle);
        write.require_part(lease.id);
        let (part, seen) = (write.part(), write.value(number(seen)));
        let _ = write!(write.condition, " AND {part}.{} = {seen}", Attribute::Expires);
        if let Some(token) = token {
            let (part, since) = (write.part(), number(now.millis()));
            write.set_path(&format!("{part}.{}", Attribute::Since), since);
            write.set_part_token(token);
        }
        write
    }

    /// Raises the token of a part, and with `fence` that of the lock.
    pub(crate) fn advance_part(layout: &'a Layout, lease: &Lease, token: FencingToken, fence: bool) -> Self {
        let mut write = Self::new(layout, record::version(lease.id));
        write.require_part(lease.id);
        if fence {
            write.set_part_token(token);
        } else {
            let part = write.part();
            let value = write.set_path(&format!("{part}.{}", Attribute::Fence), number(token.get()));
            let _ = write!(write.condition, " AND {part}.{} < {value}", Attribute::Fence);
        }
        write
    }

    /// Ends a part, which stays taken for `hold_for`.
    pub(crate) fn release_part(layout: &'a Layout, lease: &Lease, hold_for: Duration, now: StoreTime) -> Self {
        let mut write = Self::new(layout, record::version(lease.id));
        let free_at = number(part_end(now, hold_for));
        write.require_part(lease.id);
        let part = write.part();
        if hold_for.is_zero() {
            write.set_path(&part, ended(free_at, None));
        } else {
            write.set_path(&format!("{part}.{}", Attribute::FreeAt), free_at);
        }
        write
    }

    /// Adds a part that has ended, in place of the part of `lease` that has not arrived, if fewer
    /// than `room` parts are in the item.
    pub(crate) fn end_missing_part(layout: &'a Layout, lease: &Lease, now: StoreTime, room: usize) -> Self {
        let mut write = Self::new(layout, record::version(lease.id));
        write.names.insert(ID.into(), lease.id.to_string());
        let part = write.part();
        write.set_path(&part, ended(number(part_end(now, Duration::ZERO)), None));
        let (parts, room, map) = (write.name(Attribute::Parts), write.value(number(room)), write.value(text("M")));
        write.condition =
            format!("attribute_not_exists({part}) AND attribute_type({parts}, {map}) AND size({parts}) < {room}");
        write.require_no_single_holder();
        write
    }

    /// Ends a part for an operator.
    pub(crate) fn break_part(layout: &'a Layout, id: LeaseId, by: &str, now: StoreTime) -> Self {
        let mut write = Self::new(layout, record::version(id));
        write.require_part(id);
        let part = write.part();
        write.set_path(&part, ended(number(part_end(now, Duration::ZERO)), Some(by)));
        // The next holder of another mode removes the parts.
        write.set(Attribute::BrokenId, text(id));
        write.set(Attribute::BrokenBy, text(by));
        write
    }

    /// Marks a lock with several holders from `now` for a request that waits, unless another
    /// request's mark stands, which is over if it ended before `passed`.
    pub(crate) fn mark(layout: &'a Layout, request: &AcquireRequest, now: StoreTime, passed: i64) -> Self {
        let mut write = Self::without_version(layout);
        let mark = HashMap::from([
            (Attribute::Version.to_string(), text(request.id)),
            (Attribute::Mode.to_string(), text(mode_text(request.mode))),
            (Attribute::Owner.to_string(), text(&request.owner)),
            (Attribute::Expires.to_string(), number(part_end(now, request.ttl))),
        ]);
        write.set(Attribute::Waiting, AttributeValue::M(mark));
        let (waiting, parts) = (write.name(Attribute::Waiting), write.name(Attribute::Parts));
        let (passed, id) = (write.value(number(passed)), write.value(text(request.id)));
        let (version, expires) = (Attribute::Version, Attribute::Expires);
        // Requests in the queue do not wait for a mark that is set behind them. They came after a
        // mark that stands.
        let empty = write.first_place_is(None);
        write.condition = format!(
            "attribute_exists({parts}) AND ({waiting}.{version} = {id} OR \
             (attribute_not_exists({waiting}) OR {waiting}.{expires} < {passed}) AND {empty})"
        );
        write
    }

    /// Removes the mark of a request that waits no longer.
    pub(crate) fn unmark(layout: &'a Layout, id: LeaseId) -> Self {
        let mut write = Self::without_version(layout);
        write.remove(Attribute::Waiting);
        let (waiting, id) = (write.name(Attribute::Waiting), write.value(text(id)));
        write.condition = format!("{waiting}.{} = {id}", Attribute::Version);
        write
    }

    /// The condition for deleting the item of a lock that had several holders, if it is unchanged.
    pub(crate) fn forget_version(layout: &'a Layout, version: &str) -> Self {
        let mut write = Self::without_version(layout);
        write.require_version(version);
        write
    }

    /// Removes what describes several holders from an item that gets a single one.
    pub(super) fn replace_joined(&mut self) {
        if self.layout.has_modes() {
            self.remove(Attribute::Mode);
            self.remove(Attribute::Parts);
        }
    }

    /// Removes the mark of this request, if it may stand. Another request in its place marks again.
    pub(super) fn unmark_if(&mut self, unmark: bool) {
        if unmark {
            self.remove(Attribute::Waiting);
        }
    }

    /// Adds that the mark is that of `seen`, whose end and whose mode were judged.
    fn require_mark(&mut self, seen: &Record) {
        if seen.has_odd_mark {
            return;
        }
        let waiting = self.name(Attribute::Waiting);
        let condition = match &seen.waiting {
            Some(mark) => format!("{waiting}.{} = {}", Attribute::Version, self.value(text(mark.id))),
            None => format!("attribute_not_exists({waiting})"),
        };
        let _ = write!(self.condition, " AND {condition}");
    }

    fn remove_parts(&mut self, gone: &[&Part]) {
        for (index, gone) in gone.iter().enumerate() {
            let (parts, key) = (self.name(Attribute::Parts), format!("#gone{index}"));
            self.remove_path(&format!("{parts}.{key}"));
            self.names.insert(key, gone.id.to_string());
        }
    }

    fn first_part(&mut self, new: NewPart<'_>) {
        self.collect(new.now, LONGEST_LEASE, new.idle);
        let part = HashMap::from([(new.request.id.to_string(), new.value())]);
        self.set(Attribute::Parts, AttributeValue::M(part));
        self.set(Attribute::Mode, text(mode_text(new.request.mode)));
        self.set(Attribute::Fence, number(new.token.get()));
    }

    fn add_part(&mut self, new: NewPart<'_>) {
        self.collect(new.now, LONGEST_LEASE, new.idle);
        self.names.insert(ID.into(), new.request.id.to_string());
        let part = self.part();
        self.set_path(&part, new.value());
    }

    /// Sets the lease of a part. Returns the placeholder of its end.
    fn set_part_lease(&mut self, ttl: Duration, now: StoreTime, idle: Idle) -> String {
        self.collect(now, LONGEST_LEASE, idle);
        let part = self.part();
        self.set_path(&format!("{part}.{}", Attribute::Ttl), number(millis(ttl)));
        self.set_path(&format!("{part}.{}", Attribute::Expires), number(part_end(now, ttl)))
    }

    /// Sets the token of a part and of the lock, if it is larger than all before.
    fn set_part_token(&mut self, token: FencingToken) {
        let part = self.part();
        self.set_path(&format!("{part}.{}", Attribute::Fence), number(token.get()));
        let value = self.set(Attribute::Fence, number(token.get()));
        let fence = self.name(Attribute::Fence);
        let _ = write!(self.condition, " AND {fence} < {value}");
    }

    /// Requires that the part of `id` is held.
    fn require_part(&mut self, id: LeaseId) {
        self.names.insert(ID.into(), id.to_string());
        let part = self.part();
        self.condition = format!("attribute_exists({part}) AND attribute_not_exists({part}.{})", Attribute::FreeAt);
        self.require_no_single_holder();
    }

    /// Adds that no parts hold the lock. Beside a single holder, which alone has a ttl, parts were
    /// left by a client of an earlier version.
    pub(super) fn require_no_parts(&mut self) {
        if self.layout.has_modes() {
            let (parts, ttl) = (self.name(Attribute::Parts), self.name(Attribute::Ttl));
            let _ = write!(self.condition, " AND (attribute_not_exists({parts}) OR attribute_exists({ttl}))");
        }
    }

    /// Adds that no single holder has the item, beside parts that were left in it.
    fn require_no_single_holder(&mut self) {
        let ttl = self.name(Attribute::Ttl);
        let _ = write!(self.condition, " AND attribute_not_exists({ttl})");
    }

    /// The path of one part.
    fn part(&mut self) -> String {
        format!("{}.{ID}", self.name(Attribute::Parts))
    }
}

fn millis(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX / 4)
}

/// The end of a part that is written at `now`, in milliseconds.
pub(crate) fn part_end(now: StoreTime, ttl: Duration) -> i64 {
    now.millis().saturating_add(1).saturating_add(millis(ttl))
}

impl NewPart<'_> {
    fn value(self) -> AttributeValue {
        let Self { request, now, token, .. } = self;
        let mut part = HashMap::from([
            (Attribute::Ttl.to_string(), number(millis(request.ttl))),
            (Attribute::Expires.to_string(), number(part_end(now, request.ttl))),
            (Attribute::Owner.to_string(), text(&request.owner)),
            (Attribute::Since.to_string(), number(now.millis())),
            (Attribute::Fence.to_string(), number(token.get())),
        ]);
        if let Some(data) = &request.data {
            part.insert(Attribute::Data.to_string(), AttributeValue::B(Blob::new(data.clone())));
        }
        AttributeValue::M(part)
    }
}

fn ended(free_at: AttributeValue, broken_by: Option<&str>) -> AttributeValue {
    // Free at once, whatever the clock of the writer says.
    let released = (Attribute::Released.to_string(), text(record::RELEASED));
    let mut part = HashMap::from([(Attribute::FreeAt.to_string(), free_at), released]);
    part.extend(broken_by.map(|by| (Attribute::BrokenBy.to_string(), text(by))));
    AttributeValue::M(part)
}
