//! Shares a lock whose holders cannot be recorded, as `flock -s` does.
//!
//! A full disk has no room for the record of a part. In a directory of another user there is no
//! file of the parts. The shared lock on the lock file excludes exclusive holders without either.
//! Permits are refused beside a shared lock that has no part.

use std::{fs, io, time::Duration};

use lock_core::{
    Error, ErrorKind, Mode as LockMode,
    backend::{AcquireOutcome, AcquireRequest},
};

use super::{FileStore, joining};
use crate::{
    clock::now_us,
    files::Files,
    floor,
    lockfile::LockFile,
    medium::refusal::CachedHolder,
    parts::PartsFile,
    sidecar::{self, RecordRead},
    wait::slots::IdleDescriptor,
};

impl FileStore {
    /// Returns whether `request` may hold the lock without a part, after `error`. Only where the
    /// clock of this machine gives the tokens.
    pub(super) fn allows_no_part(&self, request: &AcquireRequest, error: &Error) -> bool {
        request.mode == LockMode::Shared && self.medium.keeps_locks() && self.allows_no_record(false, error)
    }

    /// Writes the record of part `number`, and then the joined record with `begin`. Without the
    /// part, the joined record would hide the crash of the holder before. A shared lock may be held
    /// without its part where the disk is full.
    ///
    /// The token of the first holder is one more than the clock, which is the token of the joined
    /// record.
    pub(super) fn record_part(
        &self,
        request: &AcquireRequest,
        parts: &PartsFile,
        (number, bytes): (usize, &[u8]),
        begin: impl FnOnce() -> Result<(), Error>,
        (is_from_clock, now_us): (bool, u64),
    ) -> Result<Option<usize>, Error> {
        let recorded = parts.write(number, bytes).and_then(|()| {
            // A part that says "held" would be reported as a crash.
            begin().inspect_err(|_| drop(parts.mark_released(number, now_us, Duration::ZERO)))
        });
        let Err(error) = recorded else { return Ok(Some(number)) };
        parts.unlock_part(number);
        if !is_from_clock || !self.allows_no_part(request, &error) {
            return Err(error);
        }
        self.go_without_record(request, &error);
        Ok(None)
    }

    /// Shares the lock file, where the file of the parts cannot be created because of `error`.
    /// `None` to start over.
    pub(super) fn join_without_part(
        &self,
        request: &AcquireRequest,
        files: &Files,
        (lock, cached): (LockFile, Option<CachedHolder>),
        error: Error,
    ) -> Result<Option<AcquireOutcome>, Error> {
        let refusal = self.try_share(request, files, &lock, cached)?;
        if !lock.inode.is_at(&files.lock)? {
            let _ = lock.unlock(&files.lock);
            return Ok(None);
        }
        if let Some(refusal) = refusal {
            let holder = refusal.holder.clone().with_store_time(self.medium.store_time());
            self.slots.keep(&request.name, IdleDescriptor { lock, cached: Some(refusal) });
            return Ok(Some(AcquireOutcome::Contended(holder)));
        }
        self.share(request, files, lock, error).map(Some)
    }

    /// Keeps the shared `lock`, unless a minimum hold or a queue refuses it.
    fn share(
        &self,
        request: &AcquireRequest,
        files: &Files,
        lock: LockFile,
        error: Error,
    ) -> Result<AcquireOutcome, Error> {
        // After the lock was shared: a request for a permit creates the file, and then looks
        // whether the lock is shared.
        match fs::symlink_metadata(&files.parts) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            _ => return Err(self.unshared(&lock, files, error)),
        }
        match self.behind_queue(request, files) {
            Ok(None) => {}
            Ok(Some(holder)) => {
                lock.unlock(&files.lock)?;
                return Ok(self.step_behind(lock, request, files, holder));
            }
            Err(error) => return Err(self.unshared(&lock, files, error)),
        }
        let now_us = now_us();
        let flags = self.medium.open_flags();
        let previous = match sidecar::read(&files.record, flags) {
            Ok(previous) => previous,
            Err(error) => return Err(self.unshared(&lock, files, error)),
        };
        let last = match previous {
            RecordRead::Record(record) if record.hold_left(now_us).is_some() => {
                lock.unlock(&files.lock)?;
                let holder = RecordRead::Record(record).holder(now_us, || None);
                self.slots.keep(&request.name, IdleDescriptor { lock, cached: None });
                return Ok(AcquireOutcome::Contended(holder.with_store_time(self.medium.store_time())));
            }
            RecordRead::Record(record) => Ok(record.token()),
            _ => floor::read(&self.directory, flags),
        };
        match last.and_then(|last| joining::next(last, now_us, 0, files)) {
            Ok(token) if token.get() == now_us => {
                self.go_without_record(request, &error);
                Ok(self.joined((request.id, request.name.clone()), lock, None, (token, 0), None))
            }
            // A token ahead of the clock would be given twice.
            Ok(_) => Err(self.unshared(&lock, files, error)),
            Err(error) => Err(self.unshared(&lock, files, error)),
        }
    }

    /// Unlocks the lock file, and returns `error`. A child between fork and exec would delay the
    /// effect of a close.
    fn unshared(&self, lock: &LockFile, files: &Files, error: Error) -> Error {
        if let Err(failed) = lock.unlock(&files.lock) {
            tracing::debug!(file = %files.lock.display(), error = %failed, "cannot unlock the lock file");
        }
        error
    }
}

/// The error of a change to the record of a lock that has none.
pub(super) fn has_no_record() -> Error {
    let what = "the lock has no record for the token, because it could not be written; free some space, or use a \
                directory that this user may write to";
    Error::new(ErrorKind::Full, what).with_ambiguous(false)
}
