//! The locks that this process runs under: a list in the environment, one entry for each level.
//!
//! A descendant that waits for one of them would wait forever. It recognises the lock by the
//! holder that the store reports, not by the spelling of the store: one directory has many paths,
//! and one server many addresses. A process that outlives the lock finds another holder, or none.

use std::{env, iter};

use lock_core::{Holder, LockName, Mode};
use serde_json::{Value, json};

use super::standstill::Holders;

/// The variable in the environment of the command.
pub(super) const VARIABLE: &str = "ONELOCK_HELD";

/// The locks of the processes above this one, from the outermost to the innermost.
#[derive(Debug, Clone, Default)]
pub(crate) struct OuterLocks {
    entries: Vec<Value>,
    /// The beginning of this process's default owner.
    owner: Option<String>,
    /// This process, which acquires the lock.
    process: u32,
}

impl OuterLocks {
    /// Reads the environment. `has_default_owner` says that the lock's owner is `host:pid-random`.
    pub(super) fn from_environment(has_default_owner: bool) -> Self {
        let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
        let process = std::process::id();
        let owner = host.filter(|_| has_default_owner).map(|host| format!("{host}:{process}-"));
        Self { entries: parse(&env::var(VARIABLE).unwrap_or_default()), owner, process }
    }

    /// Returns the list for the command, which runs under the lock `name` too.
    pub(super) fn with(&self, name: &LockName, token: Option<u64>) -> String {
        let mut entries = self.entries.clone();
        entries.push(json!({ "name": name.as_str(), "token": token, "owner": self.owner, "pid": self.process }));
        Value::Array(entries).to_string()
    }

    /// Whether `holder`, with its others, leaves no room for a lock in `mode` as long as the
    /// processes hold it that this process runs under.
    pub(super) fn exclude(&self, name: &LockName, mode: Mode, holder: &Holder) -> bool {
        // Permits of other processes become free.
        let enough: usize = match (mode, holder.mode) {
            (Mode::Permit { of }, Mode::Permit { .. }) => of.get().into(),
            _ => 1,
        };
        let holders = iter::once(holder).chain(&holder.others);
        holders.filter(|holder| self.contain(name, holder)).count() >= enough
    }

    /// Returns `holder` and its others if one of them is a process that this one runs under, and a
    /// permit is free. Then a request that waits keeps this one out, and may wait for that process.
    pub(super) fn kept_out(&self, name: &LockName, mode: Mode, holder: &Holder) -> Option<Holders> {
        let (Mode::Permit { of }, Mode::Permit { .. }) = (mode, holder.mode) else { return None };
        let holders = || iter::once(holder).chain(&holder.others);
        let is_kept_out = holder.count() < of.get().into() && holders().any(|holder| self.contain(name, holder));
        is_kept_out.then(|| {
            let mut tokens: Holders = holders().map(|holder| holder.token).collect();
            tokens.sort_unstable();
            tokens
        })
    }

    /// Whether `holder` is one of the processes that this process runs under.
    fn contain(&self, name: &LockName, holder: &Holder) -> bool {
        self.entries.iter().any(|entry| match (entry["token"].as_u64(), holder.token) {
            // The record could not be written, for example in a directory of another user.
            _ if holder.process.is_some() => {
                entry["pid"].as_u64() == holder.process.map(|process| process.get().into())
            }
            // A token is a time in microseconds, so that locks do not share one by accident.
            (Some(token), Some(held)) => token == held.get(),
            // A schema of another client, which has no tokens.
            (None, None) => entry["name"] == name.as_str() && owner_begins(holder, entry["owner"].as_str()),
            _ => false,
        })
    }

    /// Whether `holder`, of whom the store knows nothing, may be one of these processes.
    pub(super) fn may_contain(&self, holder: &Holder) -> bool {
        !self.entries.is_empty() && holder.token.is_none() && holder.owner.is_none()
    }
}

fn owner_begins(holder: &Holder, beginning: Option<&str>) -> bool {
    holder.owner.as_deref().zip(beginning).is_some_and(|(owner, beginning)| owner.starts_with(beginning))
}

/// A list that another program spoilt is no list: it must not keep a job from running.
fn parse(text: &str) -> Vec<Value> {
    match serde_json::from_str(text) {
        Ok(Value::Array(entries)) => entries,
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU16, NonZeroU32};

    use lock_core::FencingToken;

    use super::*;

    fn under(list: &str) -> OuterLocks {
        OuterLocks { entries: parse(list), owner: Some("etl:7-".into()), process: 7 }
    }

    #[test]
    fn every_level_is_recognised_by_its_token() {
        let name = LockName::new("x").unwrap();
        let inner = under(&under(&under("").with(&name, Some(41))).with(&name, Some(42)));
        let held = |token| Holder::default().with_token(FencingToken::new(token));
        assert!(inner.contain(&name, &held(41)) && inner.contain(&name, &held(42)));
        assert!(!inner.contain(&name, &held(43)) && !inner.contain(&name, &Holder::default()));
    }

    #[test]
    fn a_store_without_tokens_is_recognised_by_its_owner() {
        let [x, y] = ["x", "y"].map(|name| LockName::new(name).unwrap());
        let inner = under(&under("").with(&x, None));
        let held = |owner: &str| Holder::default().with_owner(owner.to_owned());
        assert!(inner.contain(&x, &held("etl:7-1a2b3c4d")));
        assert!(!inner.contain(&y, &held("etl:7-1a2b3c4d")) && !inner.contain(&x, &held("etl:70-1a2b3c4d")));
    }

    #[test]
    fn a_holder_without_a_record_is_recognised_by_its_process() {
        let name = LockName::new("x").unwrap();
        let inner = under(&under("").with(&name, Some(42)));
        let unknown = Holder::default().with_foreign("a flock(2) holder without a record".to_owned());
        let listed = |process| unknown.clone().with_process(NonZeroU32::new(process));
        assert!(inner.may_contain(&unknown) && !inner.contain(&name, &unknown));
        assert!(inner.contain(&name, &listed(7)) && !inner.contain(&name, &listed(70)));
        assert!(!under("").may_contain(&unknown) && !inner.may_contain(&Holder::default().with_owner("a".to_owned())));
    }

    #[test]
    fn a_permit_of_another_process_becomes_free() {
        let name = LockName::new("x").unwrap();
        let inner = under(&under(&under("").with(&name, Some(41))).with(&name, Some(42)));
        let two = Mode::Permit { of: NonZeroU16::new(2).unwrap() };
        let [first, second, other] =
            [41, 42, 1].map(|token| Holder::default().with_token(FencingToken::new(token)).with_mode(two));
        let both = |a: &Holder, b: &Holder| a.clone().with_others(vec![b.clone()]);
        for (a, b) in [(&first, &other), (&other, &first)] {
            assert!(!inner.exclude(&name, two, &both(a, b)));
            assert!(inner.exclude(&name, Mode::Exclusive, &both(a, b)), "it needs both permits");
        }
        assert!(inner.exclude(&name, two, &both(&first, &second)));
        assert!(inner.exclude(&name, two, &first.with_mode(Mode::Exclusive)));
    }

    #[test]
    fn a_free_permit_of_the_own_lock_is_kept_for_a_waiter() {
        let name = LockName::new("x").unwrap();
        let inner = under(&under("").with(&name, Some(41)));
        let three = Mode::Permit { of: NonZeroU16::new(3).unwrap() };
        let [own, other, last] =
            [41, 1, 2].map(|token| Holder::default().with_token(FencingToken::new(token)).with_mode(three));
        let tokens = |holders: &[&Holder]| holders.iter().map(|holder| holder.token).collect();
        let kept_out = |holder: &Holder| inner.kept_out(&name, three, holder);
        for two in [own.clone().with_others(vec![other.clone()]), other.clone().with_others(vec![own.clone()])] {
            assert_eq!(kept_out(&two), Some(tokens(&[&other, &own])), "in any order");
            assert_eq!(inner.kept_out(&name, Mode::Exclusive, &two), None);
            assert_eq!(kept_out(&two.with_more(1)), None, "no permit is free");
        }
        assert_eq!(kept_out(&own), Some(tokens(&[&own])));
        assert_eq!(kept_out(&other.with_others(vec![last])), None, "no holder is an outer one");
    }

    #[test]
    fn a_spoilt_list_is_no_list() {
        let name = LockName::new("x").unwrap();
        for list in ["", "{}", "x", "[1, null, {}]", "[{\"token\":\"42\"}]"] {
            assert!(!under(list).contain(&name, &Holder::default().with_token(FencingToken::new(42))), "{list}");
        }
    }
}
