//! What the fuzz targets call; only in a build for fuzzing.

use lock_core::LockName;

use crate::{
    encode::{decode, encode, has_digest},
    record::Record,
};

/// A file name is legal everywhere, and leads back to its name unless it is a digest.
pub fn name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = decode(text);
    let Ok(name) = LockName::new(text) else { return };
    let stem = encode(&name);
    assert!(stem.len() <= 250 && !stem.starts_with('.'), "{stem}");
    assert!(stem.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && !b.is_ascii_uppercase()), "{stem}");
    assert!(has_digest(&stem) || decode(&stem).as_ref() == Some(&name), "{stem}");
}

/// A record is read or refused.
pub fn record(data: &[u8]) {
    let Ok(record) = Record::parse(data) else { return };
    let left = [0, 1, u64::MAX].map(|now| record.hold_left(now));
    assert_eq!(left[2], None, "nothing is held at the end of time");
    let token = record.token();
    assert_eq!(record.into_holder().token, token);
}
