//! The keys of a lock, all in one slot of a cluster.

use lock_core::LockName;

use crate::{
    compat::{self, python_redis_lock, redis_py},
    config::Compat,
};

/// Converts names to keys.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// The prefix of the name.
    prefix: String,
    compat: Option<Compat>,
}

impl Keys {
    pub(crate) fn new(prefix: Option<String>, compat: Option<Compat>) -> Self {
        let prefix = prefix.unwrap_or_else(|| default_prefix(compat).into());
        Self { prefix, compat }
    }

    /// The key that is set while the lock is held.
    ///
    /// Redis hashes the text between the first `{` and the next `}`, or the whole key if that text
    /// is empty. All keys of a lock begin with this key, so they share a slot, unless the name
    /// begins with `}`. A leading `}` is therefore escaped, and so is a leading `%` to keep names
    /// distinct.
    pub(crate) fn lock(&self, name: &LockName) -> String {
        let (prefix, name) = (&self.prefix, name.as_str());
        if self.compat.is_some() {
            return joined(prefix, name, "");
        }
        match name.strip_prefix(['}', '%']) {
            Some(rest) if name.starts_with('}') => format!("{prefix}{{%7D{rest}}}"),
            Some(rest) => format!("{prefix}{{%25{rest}}}"),
            None => {
                let mut key = joined(prefix, "{", name);
                key.push('}');
                key
            }
        }
    }

    /// Returns the name of the lock with this key. `None` if the key is not that of a lock.
    pub(crate) fn name(&self, lock: &str) -> Option<LockName> {
        let rest = lock.strip_prefix(&self.prefix)?;
        if self.compat.is_some() {
            return LockName::new(rest).ok();
        }
        let encoded = rest.strip_prefix('{')?.strip_suffix('}')?;
        let name = match (encoded.strip_prefix("%7D"), encoded.strip_prefix("%25")) {
            (Some(rest), _) => format!("}}{rest}"),
            (_, Some(rest)) => format!("%{rest}"),
            _ => encoded.into(),
        };
        LockName::new(name).ok()
    }

    /// Returns a SCAN pattern that finds the locks whose names begin with `prefix`, and perhaps
    /// more.
    pub(crate) fn pattern(&self, prefix: &str) -> String {
        // Escaped first characters have no exact pattern; the caller filters by name.
        let exact = !prefix.starts_with(['}', '%']) && self.compat.is_none();
        match (&self.compat, exact) {
            (Some(_), _) => format!("{}{}*", glob(&self.prefix), glob(prefix)),
            (None, true) => format!("{}{{{}*}}", glob(&self.prefix), glob(prefix)),
            (None, false) => format!("{}{{*}}", glob(&self.prefix)),
        }
    }

    /// Whether any text can be the key of a lock, so that a key does not imply a lock.
    pub(crate) fn are_verbatim(&self) -> bool {
        self.compat == Some(Compat::RedisPy)
    }

    /// Keeps the fencing token and the last holder beyond the life of the lock's own key.
    pub(crate) fn token(&self, lock: &str) -> String {
        self.beside(lock, ":t", "")
    }

    /// Marks an id that was released before its acquire arrived.
    pub(crate) fn gone(&self, lock: &str, id: &str) -> String {
        self.beside(lock, ":g:", id)
    }

    /// Tells a holder who broke its lock.
    pub(crate) fn broken(&self, lock: &str, id: &str) -> String {
        self.beside(lock, ":b:", id)
    }

    /// The queue of waiting processes.
    pub(crate) fn waiters(&self, lock: &str) -> String {
        self.beside(lock, ":w", "")
    }

    /// The records of several holders of a lock.
    pub(crate) fn records(&self, lock: &str) -> String {
        self.beside(lock, ":h", "")
    }

    /// Marks a request that waits for holders of another mode.
    pub(crate) fn mark(&self, lock: &str) -> String {
        self.beside(lock, ":m", "")
    }

    /// The queue of fair requests.
    pub(crate) fn queue(&self, lock: &str) -> String {
        self.beside(lock, ":q", "")
    }

    /// The places of fair requests in their queue.
    pub(crate) fn places(&self, lock: &str) -> String {
        self.beside(lock, ":p", "")
    }

    /// The list on which waiting processes of python-redis-lock block.
    pub(crate) fn signal(&self, name: &LockName) -> Option<String> {
        (self.compat == Some(Compat::PythonRedisLock)).then(|| python_redis_lock::signal_key(name))
    }

    fn beside(&self, lock: &str, kind: &str, id: &str) -> String {
        if self.compat.is_none() {
            return joined(lock, kind, id);
        }
        compat::beside(lock, kind, id)
    }
}

/// Returns the prefix of the keys if the config names none.
pub(crate) fn default_prefix(compat: Option<Compat>) -> &'static str {
    match compat {
        None => "onelock:",
        Some(Compat::RedisPy) => redis_py::KEY_PREFIX,
        Some(Compat::PythonRedisLock) => python_redis_lock::KEY_PREFIX,
    }
}

/// Concatenates the parts. Not with `format!`, which would cost more than the rest of a request's
/// key building.
fn joined(a: &str, b: &str, c: &str) -> String {
    // One byte more, for a closing brace.
    let mut key = String::with_capacity(a.len() + b.len() + c.len() + 1);
    for part in [a, b, c] {
        key.push_str(part);
    }
    key
}

fn glob(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use redis::cluster_routing::Slot;

    use super::*;

    const NAMES: &[&str] = &[
        "a", "a}b", "}", "}x", "%7Dx", "%", "%25", "{", "{}", "{a}", "{}{a}", "a{b", "{{a}}", "x{y}z", "}{", "\0",
        "a:t", "a}:t", "*", "[a]", "é",
    ];

    fn all(keys: &Keys, name: &LockName) -> Vec<String> {
        let (lock, id) = (keys.lock(name), "1");
        let beside = [keys.token(&lock), keys.waiters(&lock), keys.records(&lock), keys.mark(&lock)];
        let fair = [keys.queue(&lock), keys.places(&lock)];
        [&beside[..], &fair, &[keys.gone(&lock, id), keys.broken(&lock, id), lock]].concat()
    }

    /// All texts of up to `length` characters that have a meaning in a key.
    fn texts(length: usize) -> Vec<String> {
        let longer = |some: &String| "{}%7Da:".chars().map(move |c| format!("{some}{c}")).collect::<Vec<_>>();
        let mut all = vec![String::new()];
        let mut last = 0;
        for _ in 0..length {
            let next: Vec<_> = all[last..].iter().flat_map(longer).collect();
            last = all.len();
            all.extend(next);
        }
        all
    }

    #[test]
    fn keys_of_a_lock_share_one_slot_and_no_other_lock_has_them() {
        // Shorter with redis-py, because a verbatim name may need a search for a number in its
        // slot.
        for (compat, length) in [(None, 4), (Some(Compat::RedisPy), 2)] {
            let keys = Keys::new(None, compat);
            let mut seen = HashSet::new();
            let names: HashSet<_> = texts(length).into_iter().chain(NAMES.iter().map(|&n| n.into())).collect();
            for name in names.into_iter().filter_map(|n| LockName::new(n).ok()) {
                let all = all(&keys, &name);
                let slots: HashSet<_> = all.iter().map(Slot::for_key).collect();
                assert_eq!(slots.len(), 1, "{all:?}");
                assert!(all.into_iter().all(|key| seen.insert(key)), "{name:?} shares a key");
            }
        }
    }

    #[test]
    fn keys_beside_foreign_locks_differ_from_our_own_keys() {
        let names: Vec<_> = NAMES.iter().map(|n| LockName::new(n).unwrap()).collect();
        let keys = |compat| names.iter().flat_map(|name| all(&Keys::new(None, compat), name)).collect::<HashSet<_>>();
        let ours = keys(None);
        for compat in [Compat::RedisPy, Compat::PythonRedisLock] {
            let shared: Vec<_> = ours.intersection(&keys(Some(compat))).cloned().collect();
            assert!(shared.is_empty(), "{shared:?}");
        }
    }

    #[test]
    fn only_the_lock_key_decodes_to_a_name() {
        let keys = Keys::new(None, None);
        for name in NAMES.iter().map(|n| LockName::new(n).unwrap()) {
            let all = all(&keys, &name);
            let names: Vec<_> = all.iter().filter_map(|key| keys.name(key)).collect();
            assert_eq!(names, [name]);
        }
    }

    #[test]
    fn foreign_key_formats_are_exact() {
        let name = LockName::new("job").unwrap();
        assert_eq!(Keys::new(None, Some(Compat::RedisPy)).lock(&name), "job");
        let python = Keys::new(None, Some(Compat::PythonRedisLock));
        assert_eq!((python.lock(&name), python.signal(&name).unwrap()), ("lock:job".into(), "lock-signal:job".into()));
    }
}
