//! The state of a check in which two hosts contend for one lock. Each host writes a note into the
//! lock's record while it holds the lock.
//!
//! A host may acquire the lock while the other host's record says "held". Then either both hold it,
//! or the other host has died. The other host's later notes decide: they count the holds that it
//! kept to the end.

use std::collections::BTreeSet;

use lock_core::{FencingToken, Holder};
use serde_json::{Value, json};

/// How many holds and refusals each host needs before the check has a verdict.
const ENOUGH: usize = 3;

/// The result of the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Each host was refused while the other held the lock.
    Excluded,
    /// Both hosts held the lock at the same time.
    BothHeld,
    /// The hosts exclude each other, but a later holder got a smaller token.
    TokensRegressed,
}

impl Verdict {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Excluded, "excluded"), (Self::BothHeld, "both-held"), (Self::TokensRegressed, "tokens-fell")];

    fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(verdict, _)| *verdict == self).map_or("", |(_, word)| word)
    }
}

/// The note that a host writes into the lock's record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Note {
    /// The id of the doctor's run.
    id: String,
    host: String,
    /// The running system, which two hosts with one name do not share.
    boot: String,
    /// The identity by which the store distinguishes clients, in the words of its finding; empty if
    /// the store has none.
    identity: String,
    /// The number of this hold, from 1.
    hold: u64,
    /// The number of the latest hold that the host kept to the end.
    kept: u64,
    /// The id of the run that last refused this one.
    refused_by: String,
    verdict: Option<Verdict>,
}

impl Note {
    fn parse(data: &[u8]) -> Option<Self> {
        let note: Value = serde_json::from_slice(data).ok()?;
        let text = |field: &str| Some(note[field].as_str()?.to_owned());
        let word = note["verdict"].as_str();
        Some(Self {
            id: text("doctor")?,
            host: text("host")?,
            boot: text("boot").unwrap_or_default(),
            identity: text("identity").unwrap_or_default(),
            hold: note["hold"].as_u64()?,
            kept: note["kept"].as_u64()?,
            refused_by: text("refused_by")?,
            verdict: Verdict::ALL.iter().find(|(_, w)| Some(*w) == word).map(|(verdict, _)| *verdict),
        })
    }

    fn of(holder: &Holder) -> Option<Self> {
        Self::parse(holder.data.as_deref()?)
    }
}

/// What distinguishes this host from others.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) boot: String,
    pub(super) identity: String,
}

/// One host's side of the check.
#[derive(Debug)]
pub(super) struct TwoHostCheck {
    mine: Note,
    other: Option<Note>,
    /// The other host's holds that refused this host.
    refusals: BTreeSet<u64>,
    /// The other host's hold that had not ended when this host acquired the lock.
    suspect: Option<u64>,
    both_held: bool,
    highest: Option<FencingToken>,
    token_regressed: bool,
}

impl TwoHostCheck {
    pub(super) fn new(id: String, host: Host) -> Self {
        let Host { name, boot, identity } = host;
        let mine = Note { id, host: name, boot, identity, hold: 0, kept: 0, refused_by: String::new(), verdict: None };
        Self {
            mine,
            other: None,
            refusals: BTreeSet::new(),
            suspect: None,
            both_held: false,
            highest: None,
            token_regressed: false,
        }
    }

    /// The note for the next hold.
    pub(super) fn data(&self) -> Vec<u8> {
        let Note { id, host, boot, identity, hold, kept, refused_by, .. } = &self.mine;
        let verdict = self.verdict().map(Verdict::as_str);
        let note = json!({
            "doctor": id, "host": host, "boot": boot, "identity": identity, "hold": hold + 1, "kept": kept,
            "refused_by": refused_by, "verdict": verdict
        });
        note.to_string().into_bytes()
    }

    /// Records that `holder` refused this host.
    pub(super) fn note_refused(&mut self, holder: &Holder) {
        let Some(note) = Note::of(holder).filter(|note| note.id != self.mine.id) else { return };
        self.mine.refused_by.clone_from(&note.id);
        let hold = note.hold;
        self.observe(note);
        self.refusals.insert(hold);
        self.highest = self.highest.max(holder.token);
    }

    /// Records that this host acquired the lock while the record still named `before` as holder.
    pub(super) fn note_granted(&mut self, token: Option<FencingToken>, before: Option<&Holder>) {
        self.mine.hold += 1;
        self.token_regressed |= token.is_some() && token <= self.highest;
        self.highest = self.highest.max(token);
        if let Some(note) = before.and_then(Note::of).filter(|note| note.id != self.mine.id) {
            let hold = note.hold;
            self.observe(note);
            self.suspect = Some(hold);
        }
    }

    /// Records that the latest hold was kept to the end.
    pub(super) fn note_kept(&mut self) {
        self.mine.kept = self.mine.hold;
    }

    fn observe(&mut self, note: Note) {
        if self.other.as_ref().is_none_or(|other| other.id != note.id) {
            self.refusals.clear();
            self.suspect = None;
        }
        self.both_held |= self.suspect.is_some_and(|hold| note.kept >= hold);
        self.both_held |= note.verdict == Some(Verdict::BothHeld);
        self.other = Some(note);
    }

    /// The name of the other host, if it has been observed.
    pub(super) fn other(&self) -> Option<&str> {
        self.other.as_ref().map(|note| note.host.as_str())
    }

    /// The identity of both hosts if the store cannot distinguish them. Each then ends the other's
    /// locks.
    pub(super) fn shared_identity(&self) -> Option<&str> {
        let other = self.other.as_ref()?;
        let is_shared = !other.boot.is_empty() && other.boot != self.mine.boot && other.identity == self.mine.identity;
        Some(other.identity.as_str()).filter(|identity| is_shared && !identity.is_empty())
    }

    /// Whether the other host has a verdict, too.
    pub(super) fn other_knows(&self) -> bool {
        self.other.as_ref().is_some_and(|note| note.verdict.is_some())
    }

    pub(super) fn verdict(&self) -> Option<Verdict> {
        if self.both_held {
            return Some(Verdict::BothHeld);
        }
        let both_refused = self.other.as_ref()?.refused_by == self.mine.id && self.refusals.len() >= ENOUGH;
        let both_kept = self.other.as_ref()?.kept >= ENOUGH as u64 && self.mine.kept >= ENOUGH as u64;
        let told = self.other.as_ref()?.verdict.is_some();
        // A suspicion that stays open is about a host that may have died while it held the lock.
        (told || (both_refused && both_kept)).then_some(if self.token_regressed {
            Verdict::TokensRegressed
        } else {
            Verdict::Excluded
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lock for which two sides contend in turn; `exclusive` or not.
    struct FakeLock {
        exclusive: bool,
        record: Option<Holder>,
        held: bool,
        token: u64,
    }

    impl FakeLock {
        fn new(exclusive: bool) -> Self {
            Self { exclusive, record: None, held: false, token: 1 }
        }

        /// Tries the lock for `side`; whether it was acquired.
        fn try_for(&mut self, side: &mut TwoHostCheck) -> bool {
            if self.held && self.exclusive {
                side.note_refused(self.record.as_ref().expect("it is held"));
                return false;
            }
            self.token += 1;
            let token = FencingToken::new(self.token);
            let record = Holder::default().with_token(token).with_data(side.data());
            side.note_granted(token, self.record.as_ref().filter(|_| self.held));
            (self.record, self.held) = (Some(record), true);
            true
        }

        fn release(&mut self, side: &mut TwoHostCheck) {
            side.note_kept();
            self.held = false;
        }
    }

    fn sides() -> (TwoHostCheck, TwoHostCheck) {
        (host("1", "one", "boot-1", "one"), host("2", "two", "boot-2", "two"))
    }

    fn host(id: &str, name: &str, boot: &str, identity: &str) -> TwoHostCheck {
        TwoHostCheck::new(id.into(), Host { name: name.into(), boot: boot.into(), identity: identity.into() })
    }

    #[test]
    // verifies: one-identity
    fn two_machines_with_one_identity_are_noticed() {
        for (boot, identity, shared) in [
            ("boot-2", "localhost", Some("localhost")),
            ("boot-2", "other", None),
            // Two containers are one client.
            ("boot-1", "localhost", None),
            // An older version tells neither.
            ("", "", None),
        ] {
            let mut one = host("1", "one", "boot-1", "localhost");
            let data = host("2", "two", boot, identity).data();
            one.note_refused(&Holder::default().with_data(data));
            assert_eq!(one.shared_identity(), shared, "{boot} {identity}");
        }
    }

    /// Lets each side in turn hold the lock while the other tries.
    fn meet(lock: &mut FakeLock, rounds: usize) -> (TwoHostCheck, TwoHostCheck) {
        let (mut one, mut two) = sides();
        for _ in 0..rounds {
            for (holder, other) in [(0, 1), (1, 0)] {
                let both = [&mut one, &mut two];
                assert!(lock.try_for(both[holder]));
                let too = lock.try_for(both[other]);
                lock.release(both[holder]);
                if too {
                    lock.release(both[other]);
                }
            }
        }
        (one, two)
    }

    #[test]
    fn mutual_refusals_mean_exclusion() {
        let (one, two) = meet(&mut FakeLock::new(true), 5);
        assert_eq!((one.verdict(), two.verdict()), (Some(Verdict::Excluded), Some(Verdict::Excluded)));
        assert_eq!((one.other(), two.other()), (Some("two"), Some("one")));
        assert!(one.other_knows() && two.other_knows());
    }

    #[test]
    fn a_few_refusals_give_no_verdict() {
        let (one, two) = meet(&mut FakeLock::new(true), ENOUGH - 1);
        assert_eq!((one.verdict(), two.verdict()), (None, None));
    }

    #[test]
    fn both_hosts_notice_a_lock_held_twice() {
        let (one, two) = meet(&mut FakeLock::new(false), 5);
        assert_eq!((one.verdict(), two.verdict()), (Some(Verdict::BothHeld), Some(Verdict::BothHeld)));
    }

    #[test]
    fn a_dead_holder_does_not_count_as_a_second_one() {
        let mut lock = FakeLock::new(true);
        let (mut one, mut two) = sides();
        assert!(lock.try_for(&mut one));
        // The holder dies: the store frees its lock, and its record stays.
        lock.exclusive = false;
        assert!(lock.try_for(&mut two));
        assert_eq!((two.verdict(), two.other()), (None, Some("one")));
        // The next run on that host has another id.
        let mut next = host("3", "one", "boot-1", "one");
        for _ in 0..5 {
            next.note_granted(None, None);
            next.note_kept();
        }
        let data = Some(next.data());
        two.note_refused(&Holder::default().with_data(data));
        assert_eq!(two.verdict(), None);
    }

    #[test]
    fn a_smaller_token_on_the_other_host_is_noticed() {
        let mut lock = FakeLock::new(true);
        let (mut one, mut two) = meet(&mut lock, 5);
        lock.token = 0;
        assert!(lock.try_for(&mut one));
        assert_eq!(one.verdict(), Some(Verdict::TokensRegressed));
        assert!(!lock.try_for(&mut two));
    }

    #[test]
    fn foreign_data_in_the_lock_is_no_note() {
        let (mut one, _) = sides();
        for data in ["", "etl", "{}", "[1]", r#"{"doctor":"2"}"#, r#"{"doctor":2,"host":"x","hold":1,"kept":0}"#] {
            one.note_refused(&Holder::default().with_data(Vec::from(data)));
        }
        let own = one.data();
        one.note_refused(&Holder::default().with_data(own));
        assert_eq!(one.other(), None);
    }
}
