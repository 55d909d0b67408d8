//! Compatibility with other clients: the names of their keys, and how they wait.
//!
//! The other client decides the name of the lock's key. Only onelock uses the keys beside it, which
//! must be in the same slot.

pub(crate) mod python_redis_lock;
pub(crate) mod redis_py;

use redis::cluster_routing::Slot;

/// A key beside `lock`, which is verbatim, so that its slot may be that of its whole text or of a
/// tag inside it. The prefix is not that of our own locks, one of which may have the same name.
pub(crate) fn beside(lock: &str, kind: &str, id: &str) -> String {
    match (tag(lock), lock.contains('}')) {
        (Some(tag), _) => format!("onelock-compat:{{{tag}}}:{lock}{kind}{id}"),
        (None, false) => format!("onelock-compat:{{{lock}}}{kind}{id}"),
        (None, true) => format!("onelock-compat:{{{}}}:{lock}{kind}{id}", number_in_slot_of(lock)),
    }
}

/// The part of a key that decides its slot, when that is not the whole key.
fn tag(key: &str) -> Option<&str> {
    let (_, rest) = key.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

/// A number in the slot of a key that no tag can spell (`a}b`). Among 16,384 slots one turns up
/// after about as many tries, 1 ms.
fn number_in_slot_of(key: &str) -> u32 {
    let slot = Slot::for_key(key);
    (0..).find(|n: &u32| Slot::for_key(n.to_string()) == slot).expect("CRC16 over numbers reaches every slot")
}
