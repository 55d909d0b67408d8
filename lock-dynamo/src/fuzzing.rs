//! Entry points of the fuzz targets; only in a build for fuzzing.

use std::time::Duration;

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use lock_core::{ConfigString, config::StoreConfig};

use crate::{
    DynamoConfig, Schema,
    attributes::{Attribute, Layout},
    record::{Item, LockState, Record},
};

/// Checks that a config string is parsed or refused without a panic.
pub fn config_string(data: &[u8]) {
    let Some(config) = std::str::from_utf8(data).ok().and_then(|text| ConfigString::parse(text).ok()) else { return };
    let _ = DynamoConfig::take(&mut StoreConfig::from(config)).map(|config| config.to_string());
}

/// Checks that an item is read as a lock or as a stranger, in every schema.
///
/// The input is a list of attributes: one byte each for attribute, type and length, then the value.
pub fn item(data: &[u8]) {
    for schema in Schema::ALL {
        let layout = Layout::of(*schema);
        let record = Record::read(&parse(data, &layout), &layout);
        let holder = record.holder(Some(Duration::ZERO));
        assert!(holder.version.is_none() || record.state == LockState::Held);
        assert_eq!(
            holder.foreign.is_some(),
            record.id.is_none(),
            "a holder is foreign if and only if onelock did not write it"
        );
        assert!(record.id.is_some() || (record.expires.is_none() && holder.token.is_none()), "{record:?}");
        assert!(record.id.is_none_or(|id| record.is_held_by(id) == (record.state == LockState::Held)));
    }
}

fn parse(mut data: &[u8], layout: &Layout) -> Item {
    let mut item = Item::new();
    while let [attribute, kind, length, rest @ ..] = data {
        let (value, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        data = rest;
        let text = String::from_utf8_lossy(value).into_owned();
        let value = match kind % 6 {
            0 | 1 => AttributeValue::S(text),
            2 | 3 => AttributeValue::N(text),
            4 => AttributeValue::B(Blob::new(value)),
            _ => AttributeValue::Bool(value.is_empty()),
        };
        let attributes = &Attribute::ALL[1..];
        item.insert(layout.name(attributes[usize::from(*attribute) % attributes.len()]).to_owned(), value);
    }
    item
}
