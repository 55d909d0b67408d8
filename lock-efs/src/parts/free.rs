//! Finds a part that no process holds.

use lock_core::{Error, Mode as LockMode};

use super::{MOST, PartsFile, held, slots::Slots};

/// The result of the search for a free part.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FreePart {
    /// The part with this number is free, and was locked.
    Locked(usize),
    /// All parts are kept by a minimum hold, or `held`.
    None { held: Vec<usize> },
    /// A part was released after its record was read.
    Changed,
}

impl PartsFile {
    /// Locks a free part of a lock in this `mode`, if there is one more than those that are left
    /// `for_others`. Tries first what looks free by its record in `slots`, which was read in the
    /// gate.
    pub(crate) fn lock_free(
        &self,
        slots: &Slots,
        mode: LockMode,
        for_others: usize,
        now_us: u64,
    ) -> Result<FreePart, Error> {
        let many = if let LockMode::Permit { of } = mode { usize::from(of.get()) } else { MOST };
        let free = (0..many).filter(|&number| !slots.is_kept(number, now_us));
        if for_others > 0 {
            let held = held(self.file.file()).map_err(|e| self.fail("inspect", e))?;
            if free.clone().filter(|number| !held.contains(number)).count() <= for_others {
                return Ok(FreePart::None { held });
            }
        }
        let (looks_held, looks_free): (Vec<_>, Vec<_>) = free.partition(|&number| slots.looks_held(number));
        let mut held = Vec::new();
        for number in looks_free.into_iter().chain(looks_held) {
            if !self.try_lock_part(number)? {
                held.push(number);
                continue;
            }
            // A release needs no gate. It may have come after the records were read, and with a
            // minimum hold.
            if slots.looks_held(number) && !self.read()?.looks_held(number) {
                self.unlock_part(number);
                return Ok(FreePart::Changed);
            }
            return Ok(FreePart::Locked(number));
        }
        Ok(FreePart::None { held })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lock_core::{
        FencingToken, LockName,
        backend::{AcquireRequest, LeaseId},
    };
    use nix::fcntl::OFlag;

    use super::*;
    use crate::{clock::now_us, mode::Mode, record};

    #[test]
    fn a_part_released_after_its_record_was_read_is_not_taken() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let mode = Mode { file: 0o600, directory: 0o700, exact: false };
        let open = || PartsFile::open(&dir.path().join("etl.parts"), mode, OFlag::empty()).expect("a fresh file opens");
        let one = LockMode::Permit { of: std::num::NonZeroU16::MIN };
        let request = AcquireRequest::new(LockName::new("etl").expect("a valid name"), LeaseId::random(), "me");
        let token = FencingToken::new(9).expect("a small number");

        let holder = open();
        let found = holder.lock_free(&holder.read().expect("it is empty"), one, 0, 1);
        assert_eq!(found.expect("nothing is in the way"), FreePart::Locked(0));
        let record = record::held(&request.with_mode(one), token, now_us(), None);
        holder.write(0, &record).expect("the file is writable");

        let newcomer = open();
        let slots = newcomer.read().expect("a file of parts");
        let find = |slots: &Slots| newcomer.lock_free(slots, one, 0, now_us()).expect("nothing is in the way");
        assert_eq!(find(&slots), FreePart::None { held: vec![0] });
        holder.mark_released(0, now_us(), Duration::from_secs(600)).expect("the file is writable");
        holder.unlock_part(0);
        assert_eq!(find(&slots), FreePart::Changed, "the minimum hold keeps it");
        assert_eq!(find(&newcomer.read().expect("a file of parts")), FreePart::None { held: vec![] });
    }

    #[test]
    fn the_part_of_a_crashed_holder_is_free() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let mode = Mode { file: 0o600, directory: 0o700, exact: false };
        let open = || PartsFile::open(&dir.path().join("etl.parts"), mode, OFlag::empty()).expect("a fresh file opens");
        let request = AcquireRequest::new(LockName::new("etl").expect("a valid name"), LeaseId::random(), "me");
        let token = FencingToken::new(9).expect("a small number");
        open().write(0, &record::held(&request, token, 1, None)).expect("the file is writable");
        let file = open();
        let slots = file.read().expect("a file of parts");
        let one = LockMode::Permit { of: std::num::NonZeroU16::MIN };
        assert_eq!(file.lock_free(&slots, one, 0, 1).expect("nothing is in the way"), FreePart::Locked(0));
    }
}
