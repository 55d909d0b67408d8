//! Locks with several holders: shared locks and permits. Each holder has a part in the item.

mod acquire;
mod held;

use std::time::Duration;

use lock_core::{Holder, LockName, Mode};

pub(crate) use self::acquire::released_meanwhile;
use crate::{
    acquire::Verdict,
    backend::DynamoBackend,
    record::{Joined, Part, Record},
};

/// What the version of a part begins with, so that it is never taken for that of a single holder.
const PART: &str = "part.";

/// The parts of a lock, judged.
struct Judged<'a> {
    /// With the time after which the part becomes free unless it is renewed.
    kept: Vec<(&'a Part, Option<Duration>)>,
    /// Their holders are dead: the leases are over.
    dead: Vec<&'a Part>,
    /// Released by their holders, or taken away by an operator.
    ended: Vec<&'a Part>,
    /// The recorded leases are over, but this machine's clock cannot be trusted to judge them.
    undecided: Vec<&'a Part>,
    /// The error of this machine's clock in that case, in microseconds, if known.
    skew: Option<i64>,
    mode: Option<Mode>,
}

impl Judged<'_> {
    fn holders(&self) -> impl Iterator<Item = Holder> {
        let undecided = self.undecided.iter().map(|part| (*part, Some(Duration::ZERO)));
        self.kept.iter().copied().chain(undecided).map(|(part, free_in)| self.holder(part, free_in))
    }

    fn holder(&self, part: &Part, free_in: Option<Duration>) -> Holder {
        let holder = part.holder(self.mode, free_in);
        let version = part.is_held().then(|| format!("{PART}{}", part.id));
        holder.with_version(version)
    }
}

impl DynamoBackend {
    fn judge_parts<'a>(&self, joined: &'a Joined) -> Judged<'a> {
        let now = self.clock.now_at_least();
        let mut judged = Judged {
            kept: Vec::new(),
            dead: Vec::new(),
            ended: Vec::new(),
            undecided: Vec::new(),
            skew: None,
            mode: joined.mode,
        };
        for part in &joined.parts {
            if let Some(until) = part.free_at {
                match Record::until(now, until) {
                    left if !part.is_over && !left.is_zero() => judged.kept.push((part, Some(left))),
                    _ => judged.ended.push(part),
                }
                continue;
            }
            let name = LockName::new(part.id.to_string()).expect("an id is short and not empty");
            let seen = part.expires.unwrap_or_default().to_string();
            match self.judge_lease(&name, &seen, part.lease, part.expires, now) {
                Verdict::Held(left) => judged.kept.push((part, left)),
                Verdict::Undecided(skew) => {
                    judged.undecided.push(part);
                    judged.skew = skew;
                }
                Verdict::Free | Verdict::Dead => judged.dead.push(part),
            }
        }
        judged
    }

    /// Judges whether a lock that several held can be acquired by a client that wants it alone.
    pub(crate) fn judge_joined(&self, joined: &Joined) -> Verdict {
        let judged = self.judge_parts(joined);
        if !judged.kept.is_empty() {
            let first = judged.kept.iter().filter_map(|(_, left)| *left).min();
            return Verdict::Held(first);
        }
        match () {
            () if !judged.undecided.is_empty() => Verdict::Undecided(judged.skew),
            () if !judged.dead.is_empty() => Verdict::Dead,
            () => Verdict::Free,
        }
    }

    /// Describes all holders of a lock that several hold.
    pub(crate) fn holders(&self, joined: &Joined) -> Option<Holder> {
        let now = self.store_time();
        Holder::of_several(self.judge_parts(joined).holders().map(|holder| holder.with_store_time(now)).collect())
    }

    /// Describes the holders that died.
    pub(crate) fn crashed_holders(&self, joined: &Joined) -> Option<Holder> {
        let judged = self.judge_parts(joined);
        Holder::of_several(judged.dead.iter().map(|part| judged.holder(part, Some(Duration::ZERO))).collect())
    }
}
