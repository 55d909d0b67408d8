//! The clauses that the writes have in common, and the names and values in their expressions.

use std::{fmt::Write as _, time::Duration};

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use lock_core::{
    FencingToken,
    backend::{AcquireRequest, LeaseId, StoreTime},
};

use super::{ConditionalWrite, Idle, Style};
use crate::{attributes::Attribute, record};

impl<'a> ConditionalWrite<'a> {
    /// Sets all attributes of a lock held by `request`. Returns the placeholder of the token, if
    /// the layout has one.
    pub(super) fn grant(
        &mut self,
        request: &AcquireRequest,
        now: StoreTime,
        token: Option<FencingToken>,
        idle: Idle,
    ) -> Option<String> {
        self.set_lease(request.ttl, now, idle);
        self.set(Attribute::Owner, text(&request.owner));
        self.set(Attribute::Since, number(now.millis()));
        if let Some(data) = &request.data {
            self.set(Attribute::Data, AttributeValue::B(Blob::new(data.clone())));
        }
        if !self.layout.schema.deletes_on_release() {
            self.remove(Attribute::Released);
        }
        let token = token.filter(|_| self.layout.fences())?;
        Some(self.set(Attribute::Fence, number(token.get())))
    }

    /// Removes attributes left in the item by a dead or a foreign holder.
    pub(super) fn clear_leftovers(&mut self, request: &AcquireRequest) {
        self.remove(Attribute::FreeAt);
        if !self.layout.has_ttl {
            self.remove(Attribute::CollectAt);
        }
        if request.data.is_none() {
            self.remove(Attribute::Data);
        }
    }

    /// Sets the lease and its end, which it returns.
    pub(super) fn set_lease(&mut self, ttl: Duration, now: StoreTime, idle: Idle) -> i64 {
        let millis = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX / 4);
        let ends = now.millis().saturating_add(1).saturating_add(millis);
        self.set(Attribute::Ttl, number(millis));
        if let Some(lease) = self.layout.schema.encode_lease(ttl) {
            self.set(Attribute::Lease, lease);
        }
        self.set(Attribute::Expires, number(ends));
        self.collect(now, ttl, idle);
        ends
    }

    pub(super) fn collect(&mut self, now: StoreTime, ttl: Duration, idle: Idle) {
        if !self.layout.has_ttl {
            return;
        }
        let after = i64::try_from(ttl.saturating_add(idle.0).as_secs()).unwrap_or(i64::MAX / 4);
        // In seconds: DynamoDB would read milliseconds as a date in the far future, and never
        // delete the item.
        self.set(Attribute::CollectAt, number(now.millis().div_euclid(1_000).saturating_add(after)));
    }

    pub(super) fn require_version(&mut self, version: &str) {
        let (attr, value) = (self.name(Attribute::Version), self.value(text(version)));
        self.condition = format!("{attr} = {value}");
    }

    pub(super) fn require_held_by(&mut self, id: LeaseId) {
        let (version, id) = (self.name(Attribute::Version), self.value(text(record::version_prefix(id))));
        self.condition = format!("begins_with({version}, {id})");
        let free_at = self.name(Attribute::FreeAt);
        let _ = write!(self.condition, " AND attribute_not_exists({free_at})");
        self.require_not_released();
    }

    /// The condition that the item is a released lock of onelock or of the schema's client.
    pub(super) fn released(&mut self) -> String {
        let mark = if self.layout.fences() { Attribute::Fence } else { Attribute::Lease };
        let (released, one) = (self.name(Attribute::Released), self.value(text(record::RELEASED)));
        // Every version is a string above this one; a value of another type is not.
        let (version, lowest) = (self.name(Attribute::Version), self.value(text(" ")));
        format!("{released} = {one} AND {version} > {lowest} AND attribute_exists({})", self.name(mark))
    }

    pub(super) fn require_not_released(&mut self) {
        if !self.layout.schema.deletes_on_release() {
            let released = self.name(Attribute::Released);
            let _ = write!(self.condition, " AND attribute_not_exists({released})");
        }
    }

    /// Returns the placeholder of the value.
    pub(super) fn set(&mut self, attr: Attribute, value: AttributeValue) -> String {
        let name = self.name(attr);
        self.set_path(name, value)
    }

    pub(super) fn set_path(&mut self, path: &str, value: AttributeValue) -> String {
        let value = self.value(value);
        let _ = write!(self.set, "{}{path} = {value}", if self.set.is_empty() { "SET " } else { ", " });
        value
    }

    pub(super) fn remove(&mut self, attr: Attribute) {
        let name = self.name(attr);
        self.remove_path(name);
    }

    pub(super) fn remove_path(&mut self, path: &str) {
        let _ = write!(self.remove, "{}{path}", if self.remove.is_empty() { " REMOVE " } else { ", " });
    }

    /// The attribute in an expression. A placeholder if its name is a reserved word, or might be
    /// because the user chose it.
    pub(super) fn name(&mut self, attr: Attribute) -> &'a str {
        let plain = self.layout.name(attr);
        if self.style == Style::Plain && plain == attr.as_str() && !attr.is_reserved() {
            return plain;
        }
        let placeholder = placeholder(attr);
        if !self.names.contains_key(placeholder) {
            self.names.insert(placeholder.into(), self.layout.name(attr).into());
        }
        placeholder
    }

    pub(super) fn value(&mut self, value: AttributeValue) -> String {
        let placeholder = format!(":{}", self.values.len());
        self.values.insert(placeholder.clone(), value);
        placeholder
    }

    pub(crate) fn expression(&self) -> String {
        format!("{}{}", self.set, self.remove)
    }
}

fn placeholder(attr: Attribute) -> &'static str {
    match attr {
        Attribute::Key => "#key",
        Attribute::Version => "#version",
        Attribute::Owner => "#owner",
        Attribute::Lease => "#lease",
        Attribute::Ttl => "#ttl",
        Attribute::Released => "#released",
        Attribute::Data => "#data",
        Attribute::Expires => "#expires",
        Attribute::Since => "#since",
        Attribute::Fence => "#fence",
        Attribute::FreeAt => "#free_at",
        Attribute::BrokenId => "#broken_id",
        Attribute::BrokenBy => "#broken_by",
        Attribute::CollectAt => "#collect_at",
        Attribute::Mode => "#mode",
        Attribute::Parts => "#parts",
        Attribute::Waiting => "#waiting",
        Attribute::Places => "#places",
    }
}

pub(super) fn text(value: impl ToString) -> AttributeValue {
    AttributeValue::S(value.to_string())
}

pub(super) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}
