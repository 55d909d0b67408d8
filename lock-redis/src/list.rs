//! Lists locks with SCAN, which reads the keys in small steps and never blocks the server.

use std::collections::HashSet;

use futures_util::future::{join_all, try_join_all};
use lock_core::{
    Error, ErrorKind, LockName,
    backend::{Listing, OddEntry},
};
use redis::Value;

use crate::{compat::redis_py, deployment::Deployment, error::unexpected};

/// The number of keys that the server reads in one step.
const STEP: u32 = 1000;

impl Deployment {
    /// Lists the held locks whose names begin with `prefix`. A key that this user may not read, or
    /// that cannot be the key of a lock, is an odd entry.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let mut keys = self.scan(prefix).await?;
        keys.sort();
        // SCAN may return a key several times.
        keys.dedup();
        let mut listing = Listing::default();
        let mut names = Vec::new();
        for key in keys {
            match key {
                ScannedKey::Lock(name) => names.push(name),
                ScannedKey::Odd(key) => {
                    listing.note_odd(OddEntry::new(
                        format!("the key \"{key}\""),
                        "its end is not the name of a lock; delete the key, or choose another prefix",
                    ));
                }
            }
        }
        let (mut has_answer, mut refused) = (names.is_empty(), None);
        // Concurrent requests are pipelined. The bound limits memory and the load on the server.
        for chunk in names.chunks(100) {
            let holders = join_all(chunk.iter().map(|name| self.inspect(name))).await;
            for (name, holder) in chunk.iter().zip(holders) {
                match holder {
                    Ok(holder) => {
                        has_answer = true;
                        listing.locks.extend(holder.map(|holder| (name.clone(), holder)));
                    }
                    Err(error) if is_of_one_key(&error) => {
                        let place = format!("the key \"{}\"", self.keys.lock(name));
                        listing.note_odd(OddEntry::new(place, error.to_string()));
                        refused = refused.or(Some(error));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        if let Some(error) = refused.filter(|_| !has_answer) {
            return Err(error);
        }
        if self.keys.are_verbatim() {
            listing.locks.retain(|(_, holder)| redis_py::is_lock(holder));
        }
        Ok(listing)
    }

    async fn scan(&self, prefix: &str) -> Result<Vec<ScannedKey>, Error> {
        if !self.connection.is_cluster() {
            return self.scan_node(prefix, None).await;
        }
        let primaries = self.primaries().await?;
        let names = try_join_all(primaries.iter().map(|node| self.scan_node(prefix, Some(node)))).await?;
        Ok(names.concat())
    }

    async fn scan_node(&self, prefix: &str, node: Option<&(String, u16)>) -> Result<Vec<ScannedKey>, Error> {
        let pattern = self.keys.pattern(prefix);
        let mut found = Vec::new();
        let mut cursor = b"0".to_vec();
        let mut seen = HashSet::new();
        loop {
            let mut command = redis::cmd("SCAN");
            command.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(STEP);
            let (next, keys) = page(&self.connection.command(&command, node).await?)?;
            found.extend(keys.iter().filter_map(|key| self.scanned(key, prefix)));
            if next == b"0" {
                return Ok(found);
            }
            // Redis never repeats a cursor, so this scan would not end.
            if !seen.insert(next.clone()) {
                let message =
                    "SCAN does not end, because the server repeats a cursor; check that it is Redis or Valkey";
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            cursor = next;
        }
    }

    /// Decodes a key. `None` for the lock of another prefix.
    fn scanned(&self, key: &[u8], prefix: &str) -> Option<ScannedKey> {
        match std::str::from_utf8(key).ok().and_then(|key| self.keys.name(key)) {
            Some(name) => name.as_str().starts_with(prefix).then_some(ScannedKey::Lock(name)),
            // Where any key may be a lock, the others are no odd entries.
            None if self.keys.are_verbatim() => None,
            None => Some(ScannedKey::Odd(String::from_utf8_lossy(key).into_owned())),
        }
    }

    /// Lists the nodes of a cluster that own slots.
    pub(crate) async fn primaries(&self) -> Result<Vec<(String, u16)>, Error> {
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        let answer = self.connection.command(&command, None).await?;
        let Value::Array(ranges) = &answer else { return Err(unexpected("CLUSTER SLOTS", &answer)) };
        primaries(ranges)
    }
}

/// A key whose form is that of a lock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum ScannedKey {
    Lock(LockName),
    /// The text in the place of the name is not one.
    Odd(String),
}

/// Whether `error` is about one key, and says nothing about the others.
fn is_of_one_key(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Corrupt)
}

/// The primaries of the ranges of slots, each once.
fn primaries(ranges: &[Value]) -> Result<Vec<(String, u16)>, Error> {
    let Some(mut primaries) = ranges.iter().map(primary).collect::<Option<Vec<_>>>() else {
        let advice =
            "a cluster node does not announce its address; set cluster-announce-ip or cluster-announce-hostname";
        return Err(Error::new(ErrorKind::Unsupported, advice));
    };
    primaries.sort();
    primaries.dedup();
    Ok(primaries)
}

/// The primary in `[first slot, last slot, [host, port, …], replicas…]`.
fn primary(range: &Value) -> Option<(String, u16)> {
    let Value::Array(range) = range else { return None };
    let Value::Array(node) = range.get(2)? else { return None };
    let [Value::BulkString(host), Value::Int(port), ..] = &node[..] else { return None };
    Some((String::from_utf8(host.clone()).ok()?, u16::try_from(*port).ok()?))
}

/// The next cursor and the keys in an answer to SCAN.
fn page(answer: &Value) -> Result<(Vec<u8>, Vec<Vec<u8>>), Error> {
    redis::from_redis_value_ref(answer).map_err(|_| unexpected("SCAN", answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: i64, host: Value, port: i64) -> Value {
        let node = Value::Array(vec![host, Value::Int(port), Value::BulkString(b"e7d1".to_vec())]);
        Value::Array(vec![Value::Int(first), Value::Int(first + 99), node])
    }

    fn host(name: &str) -> Value {
        Value::BulkString(name.into())
    }

    #[test]
    fn a_primary_of_many_ranges_is_one_node() {
        let ranges = [range(0, host("b"), 6379), range(100, host("a"), 6379), range(200, host("b"), 6379)];
        assert_eq!(primaries(&ranges).unwrap(), [("a".to_owned(), 6379), ("b".to_owned(), 6379)]);
    }

    #[test]
    fn a_node_without_an_address_is_an_error_with_advice() {
        // A list without the locks of one node would look complete.
        for nameless in
            [Value::Nil, host("c")].into_iter().zip([6379, 65536]).map(|(host, port)| range(100, host, port))
        {
            let error = primaries(&[range(0, host("a"), 6379), nameless]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("cluster-announce-ip"), "{error}");
        }
    }

    #[test]
    fn an_invalid_page_of_keys_is_an_error() {
        for answer in [Value::Nil, Value::Array(vec![host("0")])] {
            assert_eq!(page(&answer).unwrap_err().kind(), ErrorKind::Corrupt, "{answer:?}");
        }
    }
}
