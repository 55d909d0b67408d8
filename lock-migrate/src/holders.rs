//! Merges the holders in two stores.

use std::collections::BTreeMap;

use lock_core::{Holder, LockName};

/// Returns the holder of the lock, from the holders in the two stores.
pub(super) fn merged(from: Option<Holder>, to: Option<Holder>) -> Option<Holder> {
    match (from, to) {
        (Some(from), Some(to)) => Some(both(from, to)),
        (Some(from), None) => Some(Holder { version: from.version.as_ref().map(|v| version(Some(v), None)), ..from }),
        (None, Some(to)) => Some(Holder { version: to.version.as_ref().map(|v| version(None, Some(v))), ..to }),
        (None, None) => None,
    }
}

/// Returns the holder in the old store, with the versions of both. A client needs the lock in both
/// stores, so this holder excludes a different one in the new store.
fn both(from: Holder, to: Holder) -> Holder {
    let known = from.version.is_some() || to.version.is_some();
    Holder {
        version: known.then(|| version(from.version.as_deref(), to.version.as_deref())),
        // The lock is free when both are free. A lock file does not expire by itself.
        expires_in: from.expires_in.zip(to.expires_in).map(|(from, to)| from.max(to)),
        ..from
    }
}

pub(super) fn merged_lists(from: Vec<(LockName, Holder)>, to: Vec<(LockName, Holder)>) -> Vec<(LockName, Holder)> {
    let mut by_name: BTreeMap<LockName, (Option<Holder>, Option<Holder>)> = BTreeMap::new();
    for (name, holder) in from {
        by_name.entry(name).or_default().0 = Some(holder);
    }
    for (name, holder) in to {
        by_name.entry(name).or_default().1 = Some(holder);
    }
    by_name.into_iter().filter_map(|(name, (from, to))| Some((name, merged(from, to)?))).collect()
}

/// Joins two versions, which are arbitrary texts. The length of the first one separates them.
fn version(from: Option<&str>, to: Option<&str>) -> String {
    let (from, to) = (from.unwrap_or_default(), to.unwrap_or_default());
    format!("{}:{from}{to}", from.len())
}

/// Splits a joined version. `None` for a store in which the lock was free, or if `version` is not a
/// joined version.
pub(super) fn split_version(version: &str) -> (Option<&str>, Option<&str>) {
    let parts = version.split_once(':').and_then(|(length, rest)| rest.split_at_checked(length.parse().ok()?));
    let (from, to) = parts.unwrap_or_default();
    (Some(from).filter(|v| !v.is_empty()), Some(to).filter(|v| !v.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_versions_split_into_the_same_versions() {
        for (from, to) in [(Some("a:1"), Some("2:b")), (None, Some("x")), (Some("é"), None), (None, None)] {
            assert_eq!(split_version(&version(from, to)), (from, to));
        }
        for nonsense in ["", "x", "9:x", "-1:x", "1:é"] {
            assert_eq!(split_version(nonsense), (None, None), "{nonsense}");
        }
    }
}
