//! Merges the holders in two stores.

use std::collections::BTreeMap;

use lock_core::{
    Holder, LockName,
    backend::{Listing, OddEntry},
};

/// Returns the holders of the lock, from the holders in the two stores.
pub(super) fn merged(from: Option<Holder>, to: Option<Holder>) -> Option<Holder> {
    let most = [&from, &to].into_iter().flatten().map(Holder::count).max()?;
    let mut to = each(to);
    let mut all = Vec::new();
    for holder in each(from) {
        let other = to.iter().position(|other| is_one(&holder, other)).map(|at| to.remove(at));
        all.extend(merged_one(Some(holder), other));
    }
    all.extend(to.into_iter().filter_map(|holder| merged_one(None, Some(holder))));
    let named = all.len() as u64;
    let mut merged = Holder::of_several(all)?;
    // Those that both stores leave unnamed.
    merged.more += most.saturating_sub(named);
    Some(merged)
}

/// Returns the holders in `seen` that are also in `holder`.
pub(super) fn those_of(seen: Holder, holder: &Holder) -> Option<Holder> {
    let is_known = |seen: &Holder| [holder].into_iter().chain(&holder.others).any(|known| is_one(known, seen));
    Holder::of_several(each(Some(seen)).into_iter().filter(is_known).collect())
}

/// Returns each holder that is named.
fn each(holder: Option<Holder>) -> Vec<Holder> {
    let Some(mut first) = holder else { return Vec::new() };
    let others = std::mem::take(&mut first.others);
    first.more = 0;
    [first].into_iter().chain(others).collect()
}

/// Returns whether a holder in the old store and one in the new store are one. A break of two
/// holders as one would end the lock of both.
fn is_one(from: &Holder, to: &Holder) -> bool {
    if from.mode.may_be_joined() || to.mode.may_be_joined() {
        return from.token == to.token && from.owner == to.owner;
    }
    match (from.token, to.token) {
        (Some(from), Some(to)) => from == to,
        // A store without tokens. A program without a record has no owner either.
        _ => from.owner == to.owner || from.owner.is_none() || to.owner.is_none(),
    }
}

fn merged_one(from: Option<Holder>, to: Option<Holder>) -> Option<Holder> {
    match (from, to) {
        (Some(from), Some(to)) => Some(both(from, to)),
        (Some(mut from), None) => {
            from.version = from.version.map(|v| version(Some(&v), None));
            Some(from)
        }
        (None, Some(mut to)) => {
            to.version = to.version.map(|v| version(None, Some(&v)));
            Some(to)
        }
        (None, None) => None,
    }
}

/// The holder in the old store. It holds the lock in the new store too, or excludes its holder.
fn both(from: Holder, to: Holder) -> Holder {
    // A break with the version of one store would free that half alone.
    let known = from.version.is_some() && to.version.is_some();
    let version = known.then(|| version(from.version.as_deref(), to.version.as_deref()));
    // Free when both are; a lock file does not expire by itself.
    let expires_in = from.expires_in.zip(to.expires_in).map(|(from, to)| from.max(to));
    from.with_version(version).with_expires_in(expires_in)
}

/// Returns the listing of the migration, from those of the two stores.
pub(super) fn merged_listings(from: Listing, to: Listing) -> Listing {
    let mut merged = Listing::default();
    for (side, listing) in [("from", &from), ("to", &to)] {
        merged.note_odd_of(listing, |entry| OddEntry::new(format!("{side}: {}", entry.place), &*entry.reason));
    }
    merged.locks = merged_lists(from.locks, to.locks);
    merged
}

fn merged_lists(from: Vec<(LockName, Holder)>, to: Vec<(LockName, Holder)>) -> Vec<(LockName, Holder)> {
    let mut by_name: BTreeMap<LockName, (Option<Holder>, Option<Holder>)> = BTreeMap::new();
    for (name, holder) in from {
        by_name.entry(name).or_default().0 = Some(holder);
    }
    for (name, holder) in to {
        by_name.entry(name).or_default().1 = Some(holder);
    }
    by_name.into_iter().filter_map(|(name, (from, to))| Some((name, merged(from, to)?))).collect()
}

/// Versions are texts of the stores' own; the length of the first tells them apart.
fn version(from: Option<&str>, to: Option<&str>) -> String {
    let (from, to) = (from.unwrap_or_default(), to.unwrap_or_default());
    format!("{}:{from}{to}", from.len())
}

/// The versions in the two stores. `None` for a store where the lock was free, or for a text that
/// is no such version.
pub(super) fn split_version(version: &str) -> (Option<&str>, Option<&str>) {
    let parts = version.split_once(':').and_then(|(length, rest)| rest.split_at_checked(length.parse().ok()?));
    let (from, to) = parts.unwrap_or_default();
    (Some(from).filter(|v| !v.is_empty()), Some(to).filter(|v| !v.is_empty()))
}

#[cfg(test)]
mod tests {
    use lock_core::{FencingToken, Mode};

    use super::*;

    #[test]
    fn a_lock_with_one_unbreakable_half_has_no_version() {
        let [file, lease] = [Holder::default(), Holder::default().with_version(Some("7".to_owned()))];
        for (from, to) in [(&file, &lease), (&lease, &file)] {
            let holder = merged(Some(from.clone()), Some(to.clone())).expect("it is held");
            assert_eq!(holder.version, None, "a break would free one half");
        }
        assert!(merged(None, Some(lease)).and_then(|holder| holder.version).is_some());
    }

    #[test]
    fn a_lock_of_both_stores_ends_with_its_later_half() {
        let seconds = |n| Some(std::time::Duration::from_secs(n));
        let ending = |after| Some(Holder::default().with_expires_in(after));
        for (from, to, both) in [(seconds(1), seconds(2), seconds(2)), (None, seconds(2), None)] {
            for (from, to) in [(from, to), (to, from)] {
                let holder = merged(ending(from), ending(to)).expect("it is held");
                assert_eq!(holder.expires_in, both, "{from:?}, {to:?}");
            }
        }
    }

    #[test]
    fn two_readers_with_one_token_differ_by_their_owners() {
        let reader = |owner: &str| {
            let token = FencingToken::new(7).expect("a small number");
            Some(Holder::default().with_owner(owner.to_owned()).with_mode(Mode::Shared).with_token(Some(token)))
        };
        assert_eq!(merged(reader("a"), reader("b")).map(|holder| holder.count()), Some(2));
        assert_eq!(merged(reader("a"), reader("a")).map(|holder| holder.count()), Some(1));
    }

    #[test]
    fn two_exclusive_holders_have_versions_of_their_own() {
        let holder = |owner: &str, token: Option<u64>, version: &str| {
            let holder = Holder::default().with_owner(owner.to_owned()).with_version(version.to_owned());
            Some(holder.with_token(token.and_then(FencingToken::new)))
        };
        for (waiter, waiting, held) in [
            ("holder", Some(7), Some(5)),
            ("waiter", Some(5), Some(7)),
            ("waiter", None, Some(7)),
            ("waiter", None, None),
        ] {
            let both = merged(holder(waiter, waiting, "f"), holder("holder", held, "t")).expect("it is held");
            let versions = [&both].into_iter().chain(&both.others).map(|one| one.version.as_deref().map(split_version));
            assert_eq!(versions.collect::<Vec<_>>(), [Some((Some("f"), None)), Some((None, Some("t")))]);
            assert_eq!(both.count(), 2);
        }
    }

    #[test]
    fn one_exclusive_holder_counts_once() {
        let holder = |owner: &str, token: Option<u64>| {
            let owner = Some(owner.to_owned()).filter(|owner| !owner.is_empty());
            Some(Holder::default().with_owner(owner).with_token(token.and_then(FencingToken::new)))
        };
        for (from, to) in [
            (holder("spelled\0", Some(7)), holder("spelled\u{fffd}", Some(7))),
            (holder("untold", None), holder("untold", Some(7))),
            (holder("", None), holder("recorded", Some(7))),
        ] {
            for (from, to) in [(from.clone(), to.clone()), (to, from)] {
                assert_eq!(merged(from.clone(), to.clone()).map(|holder| holder.count()), Some(1), "{from:?}, {to:?}");
            }
        }
    }

    #[test]
    fn a_refusal_adds_no_other_holder_without_a_token() {
        let holder = |owner: &str| Holder::default().with_owner(owner.to_owned());
        assert_eq!(those_of(holder("waiter"), &holder("holder")), None);
        let other_half = holder("holder").with_token(FencingToken::new(7));
        assert_eq!(those_of(other_half.clone(), &holder("holder")), Some(other_half));
    }

    #[test]
    // verifies: odd-entries
    fn odd_entries_of_both_stores_name_their_store() {
        let (mut from, mut to) = (Listing::default(), Listing::default());
        from.note_odd(OddEntry::new("/locks/x.lock", "a symbolic link is in the way"));
        to.note_odd(OddEntry::new("the item \"x\"", "is not a lock"));
        to.locks.push((LockName::new("a").expect("a valid name"), Holder::default()));
        let merged = merged_listings(from, to);
        assert_eq!(merged.locks.len(), 1);
        assert_eq!(
            merged.odd().iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["from: /locks/x.lock: a symbolic link is in the way", "to: the item \"x\": is not a lock"]
        );
    }

    #[test]
    fn versions_of_two_stores_are_told_apart_again() {
        for (from, to) in [(Some("a:1"), Some("2:b")), (None, Some("x")), (Some("é"), None), (None, None)] {
            assert_eq!(split_version(&version(from, to)), (from, to));
        }
        for nonsense in ["", "x", "9:x", "-1:x", "1:é"] {
            assert_eq!(split_version(nonsense), (None, None), "{nonsense}");
        }
    }
}
