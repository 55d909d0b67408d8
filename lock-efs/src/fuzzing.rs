//! Entry points of the fuzz targets, in builds for fuzzing only.

use lock_core::LockName;

use crate::{
    encode::{decode, encode, has_digest},
    record::Record,
};

/// Checks that a file name is legal everywhere, and decodes to its lock name unless it has a
/// digest.
pub fn name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = decode(text);
    let Ok(name) = LockName::new(text) else { return };
    let stem = encode(&name);
    assert!(stem.len() <= 249 && !stem.starts_with('.'), "{stem}");
    assert!(stem.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && !b.is_ascii_uppercase()), "{stem}");
    assert!(has_digest(&stem) || decode(&stem).as_ref() == Some(&name), "{stem}");
}

/// Checks that a record is parsed or refused, without a panic.
pub fn record(data: &[u8]) {
    let Ok(record) = Record::parse(data) else { return };
    let left = [0, 1, u64::MAX].map(|now| record.hold_left(now));
    assert_eq!(left[2], None, "nothing is held at the end of time");
    let token = record.token();
    assert_eq!(record.into_holder().token, token);
}
