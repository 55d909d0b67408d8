//! Entry points of the fuzz targets, only in a build for fuzzing.

use lock_core::{
    LockName,
    backend::{AcquireRequest, LeaseId},
};
use redis::Value;

use crate::{Compat, RedisConfig, answer, keys::Keys, record};

/// Checks that a config string is parsed or refused.
pub fn config_string(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = RedisConfig::from_url(text).map(|config| config.to_string());
}

/// Checks that a key decodes to its own name only.
pub fn name(data: &[u8]) {
    let Some(name) = std::str::from_utf8(data).ok().and_then(|text| LockName::new(text).ok()) else { return };
    for compat in [None, Some(Compat::RedisPy), Some(Compat::PythonRedisLock)] {
        let keys = Keys::new(None, compat);
        let lock = keys.lock(&name);
        assert_eq!(keys.name(&lock).as_ref(), Some(&name));
        let _ = keys.pattern(name.as_str());
    }
    let keys = Keys::new(None, None);
    let lock = keys.lock(&name);
    let others = [keys.token(&lock), keys.gone(&lock, "1"), keys.waiters(&lock)];
    assert!(!others.contains(&lock) && others.iter().all(|key| keys.name(key).is_none()), "{others:?}");
}

/// Checks that any value and any reply is a holder, foreign or an error, and that a written record
/// reads back unchanged.
pub fn value(data: &[u8]) {
    let ttl = data.first().map_or(-1, |&byte| i64::from(byte) - 2);
    let holder = record::holder(Some(data), ttl, None);
    assert!(holder.foreign.is_none() || holder.version.is_none(), "a foreign lock cannot be broken: {holder:?}");
    let _ = record::holder(None, ttl, std::str::from_utf8(data).ok());

    let id = LeaseId::from(7);
    let lease = request(data, id).lease(None);
    let request = request(data, id);
    for answer in answers(data) {
        let _ = answer::granted_or_held(answer.clone(), &request);
        let _ = answer::why_lost(answer, &lease);
    }

    let mut written = format!("{id} 5 5 5 ").into_bytes();
    written.extend(record::tail(&request, 5));
    let read = record::parse(&written).expect("our own record");
    assert_eq!((read.owner, read.data), (Some(request.owner), request.data));
}

fn request(data: &[u8], id: LeaseId) -> AcquireRequest {
    let (owner, data) = data.split_at(data.len() / 2);
    AcquireRequest::new(
        LockName::new("n").expect("short and not empty"),
        id,
        String::from_utf8_lossy(owner).into_owned(),
    )
    .with_data((!data.is_empty()).then(|| data.to_vec()))
}

/// Shapes of replies, with `data` as every byte string.
fn answers(data: &[u8]) -> Vec<Value> {
    let bytes = || Value::BulkString(data.to_vec());
    let number = Value::Int(data.len() as i64 - 1);
    let text = |text: &str| Value::BulkString(text.into());
    let several = Value::Array(vec![
        Value::Int(6),
        text("1700000000000000"),
        text("p3"),
        number.clone(),
        text("00000000000000000000000000000007"),
        bytes(),
        bytes(),
        bytes(),
        text("1700000001000000"),
        bytes(),
    ]);
    vec![
        bytes(),
        number.clone(),
        Value::Array(vec![]),
        Value::Array(vec![Value::Int(2), bytes()]),
        Value::Array(vec![Value::Int(0), bytes(), number.clone(), Value::Nil]),
        Value::Array(vec![Value::Int(0), Value::Nil, number.clone(), bytes()]),
        Value::Array(vec![Value::Int(5), bytes(), bytes()]),
        Value::Array(vec![Value::Int(6), bytes(), bytes(), number.clone(), bytes(), bytes(), bytes()]),
        several.clone(),
        Value::Array(vec![Value::Int(7), bytes(), bytes(), number.clone()]),
        Value::Array(vec![Value::Int(8), bytes()]),
        Value::Array(vec![bytes(), bytes(), number, several.clone()]),
        Value::Array(vec![Value::Nil, bytes(), Value::Int(0), several]),
    ]
}
