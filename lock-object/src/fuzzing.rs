//! Entry points of the fuzz targets, only in a build for fuzzing.

use std::time::Duration;

use lock_core::{
    FencingToken, LockName,
    backend::{AcquireRequest, LeaseId},
};

use crate::{
    ObjectConfig,
    keys::{Keys, Place},
    record::Record,
};

/// Checks that a config string is parsed or refused.
pub fn config_string(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = ObjectConfig::from_url(text).map(|config| config.to_string());
}

/// Checks that a key decodes to its own name only.
///
/// # Panics
/// If it does not.
pub fn name(data: &[u8]) {
    let Some(name) = std::str::from_utf8(data).ok().and_then(|text| LockName::new(text).ok()) else { return };
    let keys = Keys::new("locks").expect("a good prefix");
    let place = keys.place(&keys.lock(&name));
    assert!(place == Place::Lock(name.clone()) || place == Place::Digest, "{place:?}");
    if let Ok(path) = keys.beside(&name, ".tflock") {
        assert_eq!(keys.name_beside(&path, ".tflock"), Some(name));
    }
}

/// Checks that any object is a record or refused, and that a written record reads back unchanged.
///
/// # Panics
/// If a written record reads back changed.
pub fn object(data: &[u8]) {
    if let Ok(record) = Record::parse(data) {
        let age = Duration::from_secs(data.len() as u64);
        let left = record.refused_for(age, Duration::from_secs(2));
        let _ = (record.holder(left, u64::MAX), record.renewed(Duration::MAX), record.released(Duration::MAX));
    }
    let name = LockName::new("fuzz").expect("a good name");
    let request = AcquireRequest::new(name, LeaseId::from(7), String::from_utf8_lossy(data)).with_data(data.to_vec());
    let written = Record::granted(None, &request, FencingToken::MAX, 5);
    // A record above the limit is not written.
    assert!(Record::parse(&written.to_bytes()).is_ok_and(|read| read == written) || data.len() > 20_000);
}
