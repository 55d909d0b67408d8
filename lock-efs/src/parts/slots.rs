//! The records of the parts.

use lock_core::{FencingToken, Holder, Mode as LockMode};

use super::PART_BYTES;
use crate::record::{Record, RecordState};

/// What the file has for each part. It outlives its holder, until the next one takes the part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Slots(Vec<Option<Record>>);

impl Slots {
    /// Parses the pages after the first.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        // A page that was never written is zero.
        let record = |page: &[u8]| page.first().filter(|&&first| first != 0).and(Record::parse_part(page).ok());
        Self(bytes.chunks(PART_BYTES).map(record).collect())
    }

    /// Returns the largest token.
    pub(crate) fn last_token(&self) -> Option<FencingToken> {
        self.0.iter().flatten().filter_map(Record::token).max()
    }

    /// Keeps only the records of holders that came after `token`.
    ///
    /// An exclusive holder, and a holder of another mode that begins, leave the file as it is.
    pub(crate) fn since(mut self, token: Option<FencingToken>) -> Self {
        for slot in &mut self.0 {
            slot.take_if(|record| token.is_none() || record.token() <= token);
        }
        self
    }

    pub(crate) fn get(&self, number: usize) -> Option<&Record> {
        self.0.get(number)?.as_ref()
    }

    /// Returns whether the record of a part says that it is held. A crash leaves it so.
    pub(crate) fn looks_held(&self, number: usize) -> bool {
        self.get(number).is_some_and(|record| record.state == RecordState::Held)
    }

    /// Returns the numbers of the parts whose records say that they are held.
    pub(crate) fn looking_held(&self) -> impl Iterator<Item = usize> {
        (0..self.0.len()).filter(|&number| self.looks_held(number))
    }

    /// Returns whether the minimum hold of a released part keeps it.
    pub(crate) fn is_kept(&self, number: usize, now_us: u64) -> bool {
        self.get(number).is_some_and(|record| record.hold_left(now_us).is_some())
    }

    /// Returns whether there are records, and all of this mode.
    pub(crate) fn are_all(&self, mode: LockMode) -> bool {
        let mut modes = self.0.iter().flatten().map(Record::mode);
        modes.next() == Some(mode) && modes.all(|other| other == mode)
    }

    /// Returns whether a part looks held, or is kept.
    pub(crate) fn any_present(&self, now_us: u64) -> bool {
        (0..self.0.len()).any(|number| self.looks_held(number) || self.is_kept(number, now_us))
    }

    /// Returns the mode of the last holder.
    fn mode(&self) -> Option<LockMode> {
        self.0.iter().flatten().max_by_key(|record| record.token()).map(Record::mode)
    }

    /// Returns the last holder, and the state in which its record is.
    pub(crate) fn last(&self) -> Option<(Holder, RecordState)> {
        let last = self.0.iter().flatten().max_by_key(|record| record.token())?;
        Some((last.clone().into_holder().with_mode(last.mode()), last.state))
    }

    /// Returns the smallest token of the `held` parts.
    pub(crate) fn first_of(&self, held: &[usize]) -> Option<FencingToken> {
        held.iter().filter_map(|&number| self.get(number)?.token()).min()
    }

    /// Returns the holders of the parts whose records say "held": those that crashed, if no part is
    /// held.
    pub(crate) fn crashed(&self) -> Vec<Holder> {
        self.looking_held().filter_map(|number| self.holder(number)).collect()
    }

    /// Returns the holder of a free part that crashed.
    pub(crate) fn crashed_in(&self, number: usize) -> Option<Holder> {
        self.looks_held(number).then(|| self.holder(number)).flatten()
    }

    /// Returns the holders of the released parts that are kept.
    pub(crate) fn kept(&self, now_us: u64) -> Vec<Holder> {
        let kept = |number| {
            let left = self.get(number)?.hold_left(now_us)?;
            Some(self.holder(number)?.with_expires_in(left))
        };
        (0..self.0.len()).filter_map(kept).collect()
    }

    /// Returns the holders of the `held` parts, and of those that are kept.
    pub(crate) fn holders(&self, held: &[usize], now_us: u64) -> Vec<Holder> {
        let mode = self.mode().unwrap_or(LockMode::Shared);
        // Between its lock and its record, a part has no holder that is known.
        let unknown = || Holder::default().with_mode(mode);
        let held = held.iter().filter(|&&number| !self.is_kept(number, now_us));
        let held = held.map(|&number| self.holder(number).filter(|_| self.looks_held(number)).unwrap_or_else(unknown));
        held.chain(self.kept(now_us)).collect()
    }

    fn holder(&self, number: usize) -> Option<Holder> {
        let record = self.get(number)?;
        Some(record.clone().into_holder().with_mode(record.mode()))
    }
}
