//! The conditional writes of the queue of fair requests.
//!
//! The queue is a list, so that DynamoDB puts each new place behind all others without a read. A
//! place keeps its index until one ahead of it ends. So each write names an index that was seen,
//! and has the condition that the same place is still there.

use std::{collections::HashMap, fmt::Write as _};

use aws_sdk_dynamodb::types::AttributeValue;
use lock_core::backend::{AcquireRequest, LeaseId, StoreTime};

use super::{ConditionalWrite, number, part_end, text};
use crate::{
    attributes::{Attribute, Layout},
    fair::Turn,
    record::mode_text,
};

/// The most places of a queue: about 15 KB of the 400 KB that an item may have.
const MOST_PLACES: usize = 100;
/// How many characters of an owner a place keeps. An owner has no limit, and an item has one.
const OWNER: usize = 128;

impl<'a> ConditionalWrite<'a> {
    /// Takes a place behind all others, unless the queue is full.
    pub(crate) fn take_place(layout: &'a Layout, request: &AcquireRequest, now: StoreTime) -> Self {
        let mut write = Self::without_version(layout);
        let owner: String = request.owner.chars().take(OWNER).collect();
        let place = HashMap::from([
            (Attribute::Version.to_string(), text(request.id)),
            (Attribute::Mode.to_string(), text(mode_text(request.mode))),
            (Attribute::Owner.to_string(), text(owner)),
            (Attribute::Expires.to_string(), number(part_end(now, request.ttl))),
        ]);
        let places = write.name(Attribute::Places);
        let place = write.value(AttributeValue::L(vec![AttributeValue::M(place)]));
        let none = write.value(AttributeValue::L(Vec::new()));
        write.set = format!("SET {places} = list_append(if_not_exists({places}, {none}), {place})");
        let version = write.name(Attribute::Version);
        write.condition =
            format!("attribute_exists({version}) AND attribute_not_exists({places}[{}])", MOST_PLACES - 1);
        write
    }

    /// Keeps the place of `request`, which is at `index`, for another ttl.
    pub(crate) fn keep_place(layout: &'a Layout, request: &AcquireRequest, index: usize, now: StoreTime) -> Self {
        let mut write = Self::without_version(layout);
        let place = write.place(index);
        write.set_path(&format!("{place}.{}", Attribute::Expires), number(part_end(now, request.ttl)));
        write.condition = write.place_is(index, request.id);
        write
    }

    /// Ends the place of `id`, which is at `index`.
    pub(crate) fn leave_place(layout: &'a Layout, id: LeaseId, index: usize) -> Self {
        let mut write = Self::without_version(layout);
        let place = write.place(index);
        write.remove_path(&place);
        write.condition = write.place_is(index, id);
        write
    }

    /// Adds that the queue is as `turn` saw it, and ends the places that are over with this grant.
    pub(crate) fn in_turn(mut self, turn: &Turn<'_>) -> Self {
        for (index, place) in &turn.over {
            let path = self.place(*index);
            let value = self.value(place.value.clone());
            let _ = write!(self.condition, " AND {path} = {value}");
            self.remove_path(&path);
        }
        if let Some((index, id)) = turn.own {
            let condition = self.place_is(index, id);
            let _ = write!(self.condition, " AND {condition}");
            let path = self.place(index);
            self.remove_path(&path);
        }
        if let Some(end) = turn.end {
            let path = self.place(end);
            let _ = write!(self.condition, " AND attribute_not_exists({path})");
            // An end ahead moves all later places, and a newcomer may come into the gap.
            if let Some((index, id)) = turn.last {
                let condition = self.place_is(index, id);
                let _ = write!(self.condition, " AND {condition}");
            }
        }
        self
    }

    /// The condition that the first place is that of `id`, or with `None` that there is no place.
    pub(super) fn first_place_is(&mut self, id: Option<LeaseId>) -> String {
        match id {
            Some(id) => self.place_is(0, id),
            None => format!("attribute_not_exists({})", self.place(0)),
        }
    }

    /// The path of the place at `index`.
    pub(super) fn place(&mut self, index: usize) -> String {
        format!("{}[{index}]", self.name(Attribute::Places))
    }

    fn place_is(&mut self, index: usize, id: LeaseId) -> String {
        let (place, id) = (self.place(index), self.value(text(id)));
        format!("{place}.{} = {id}", Attribute::Version)
    }
}
