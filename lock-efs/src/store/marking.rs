//! Marks that a request waits for holders of another mode.

use lock_core::{Error, backend::AcquireRequest};

use super::FileStore;
use crate::{
    files::Files,
    key::Key,
    medium::{Probe, refusal::CachedHolder},
    parts::PartsFile,
};

impl FileStore {
    /// Returns the holder that refuses an exclusive request, if the record said that the lock has
    /// several. Marks that the request waits for them.
    pub(super) fn refused_by_parts(
        &self,
        request: &AcquireRequest,
        files: &Files,
        refusal: &mut CachedHolder,
    ) -> Result<(), Error> {
        let key = (request.id, request.name.clone());
        let Some(from) = refusal.joined else {
            self.marks.remove(&key);
            return Ok(());
        };
        if !refusal.has_parts
            && let Some(holder) = self.joined_since(files, from)?
        {
            (refusal.holder, refusal.has_parts) = (holder, true);
        }
        if !request.waits || request.fair || self.is_marked(&key)? || !self.may_mark(request, files)? {
            return Ok(());
        }
        let parts = match PartsFile::open(&files.parts, self.mode_beside(files), self.medium.open_flags()) {
            // Without a mark later readers may overtake the request, as with flock(1).
            Err(error) if self.allows_no_record(false, &error) => return Ok(()),
            opened => opened?,
        };
        let is_marked = match parts.enter(self.medium.gate_wait().of(request))? {
            Some(gate) => gate.mark(request.mode)?,
            None => false,
        };
        if is_marked {
            self.marks.insert(key, parts);
        }
        Ok(())
    }

    /// Returns whether the mark of a waiting request still keeps newcomers out.
    pub(super) fn is_marked(&self, key: &Key) -> Result<bool, Error> {
        let Some(marked) = self.marks.get(key) else { return Ok(false) };
        if self.medium.check(&marked.file, &marked.path, &self.last_refresh)? == Probe::StillHeld {
            return Ok(true);
        }
        self.marks.remove(key);
        Ok(false)
    }

    /// Ends the mark and the place of a first attempt that failed: after an error the core releases
    /// no id. Those of earlier attempts end with the release of the waiter.
    pub(crate) fn leave_nothing<T>(&self, key: &Key, has_waited: bool, outcome: Result<T, Error>) -> Result<T, Error> {
        if outcome.is_err() && !has_waited {
            self.marks.remove(key);
            self.leave_queue(key);
        }
        outcome
    }
}
