//! What two hosts that contend for one lock learn of each other, from what each writes into the
//! lock while it has it.
//!
//! A host that is granted the lock while the other's record says "held" suspects that both have it,
//! or that the other has died. The other settles that: it counts the holds that it kept to their
//! end, and says so in its next ones.

use std::collections::BTreeSet;

use lock_core::{FencingToken, Holder};
use serde_json::{Value, json};

/// How often each must have had the lock, and been refused it, before that counts as an answer.
const ENOUGH: usize = 3;

/// What was found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Each was refused while the other had the lock.
    Excluded,
    /// The two had it at once.
    BothHeld,
    /// They exclude each other, but a later holder had a smaller token.
    TokensRegressed,
}

impl Verdict {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Excluded, "excluded"), (Self::BothHeld, "both-held"), (Self::TokensRegressed, "tokens-fell")];

    fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(verdict, _)| *verdict == self).map_or("", |(_, word)| word)
    }
}

/// What a host writes into the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Note {
    /// Which run of the doctor.
    id: String,
    host: String,
    /// Which of its holds this is, from 1.
    hold: u64,
    /// The latest of its holds that it had from the first moment to the last.
    kept: u64,
    /// Whose lock was in its way.
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

/// One side of a meeting.
#[derive(Debug)]
pub(super) struct TwoHostCheck {
    mine: Note,
    other: Option<Note>,
    /// The other's holds for which we were refused.
    refusals: BTreeSet<u64>,
    /// The other's hold that had not ended when we were granted the lock.
    suspect: Option<u64>,
    both_held: bool,
    highest: Option<FencingToken>,
    token_regressed: bool,
}

impl TwoHostCheck {
    pub(super) fn new(id: String, host: String) -> Self {
        let mine = Note { id, host, hold: 0, kept: 0, refused_by: String::new(), verdict: None };
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

    /// What to write into the next hold.
    pub(super) fn data(&self) -> Vec<u8> {
        let Note { id, host, hold, kept, refused_by, .. } = &self.mine;
        let verdict = self.verdict().map(Verdict::as_str);
        let note = json!({
            "doctor": id, "host": host, "hold": hold + 1, "kept": kept, "refused_by": refused_by, "verdict": verdict
        });
        note.to_string().into_bytes()
    }

    /// We were refused because of `holder`.
    pub(super) fn note_refused(&mut self, holder: &Holder) {
        let Some(note) = Note::of(holder).filter(|note| note.id != self.mine.id) else { return };
        self.mine.refused_by.clone_from(&note.id);
        let hold = note.hold;
        self.observe(note);
        self.refusals.insert(hold);
        self.highest = self.highest.max(holder.token);
    }

    /// We were granted the lock; `before` is whose record said that it held it then.
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

    /// The hold that began last was ours to its end.
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

    /// The other host, once it was met.
    pub(super) fn other(&self) -> Option<&str> {
        self.other.as_ref().map(|note| note.host.as_str())
    }

    /// Whether the other has found out too.
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
        // A suspicion that nobody has settled is of a host that may have died in the midst.
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

    /// A lock that two sides contend for in turn; `exclusive` or not.
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

        /// Whether it was granted.
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
        (TwoHostCheck::new("1".into(), "one".into()), TwoHostCheck::new("2".into(), "two".into()))
    }

    /// Each in turn has the lock while the other tries.
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
    fn hosts_that_refuse_each_other_are_found_to_exclude_each_other() {
        let (one, two) = meet(&mut FakeLock::new(true), 5);
        assert_eq!((one.verdict(), two.verdict()), (Some(Verdict::Excluded), Some(Verdict::Excluded)));
        assert_eq!((one.other(), two.other()), (Some("two"), Some("one")));
        assert!(one.other_knows() && two.other_knows());
    }

    #[test]
    fn a_few_refusals_are_not_enough() {
        let (one, two) = meet(&mut FakeLock::new(true), ENOUGH - 1);
        assert_eq!((one.verdict(), two.verdict()), (None, None));
    }

    #[test]
    fn hosts_that_both_had_the_lock_are_found_out_by_both() {
        let (one, two) = meet(&mut FakeLock::new(false), 5);
        assert_eq!((one.verdict(), two.verdict()), (Some(Verdict::BothHeld), Some(Verdict::BothHeld)));
    }

    #[test]
    fn a_host_that_died_with_the_lock_is_no_proof_that_both_had_it() {
        let mut lock = FakeLock::new(true);
        let (mut one, mut two) = sides();
        assert!(lock.try_for(&mut one));
        // It dies: the store frees its lock, and its record stays.
        lock.exclusive = false;
        assert!(lock.try_for(&mut two));
        assert_eq!((two.verdict(), two.other()), (None, Some("one")));
        // What runs there next is another one.
        let mut next = TwoHostCheck::new("3".into(), "one".into());
        for _ in 0..5 {
            next.note_granted(None, None);
            next.note_kept();
        }
        let data = Some(next.data());
        two.note_refused(&Holder::default().with_data(data));
        assert_eq!(two.verdict(), None);
    }

    #[test]
    fn tokens_that_fall_from_one_host_to_the_other_are_found_out() {
        let mut lock = FakeLock::new(true);
        let (mut one, mut two) = meet(&mut lock, 5);
        lock.token = 0;
        assert!(lock.try_for(&mut one));
        assert_eq!(one.verdict(), Some(Verdict::TokensRegressed));
        assert!(!lock.try_for(&mut two));
    }

    #[test]
    fn what_others_write_into_the_lock_is_no_note() {
        let (mut one, _) = sides();
        for data in ["", "etl", "{}", "[1]", r#"{"doctor":"2"}"#, r#"{"doctor":2,"host":"x","hold":1,"kept":0}"#] {
            one.note_refused(&Holder::default().with_data(Vec::from(data)));
        }
        let own = one.data();
        one.note_refused(&Holder::default().with_data(own));
        assert_eq!(one.other(), None);
    }
}
