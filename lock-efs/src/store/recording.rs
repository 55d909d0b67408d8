//! Records the holder of a lock, while this process has it.

use std::{
    fs::{File, Metadata},
    io, thread,
    time::Duration,
};

use lock_core::{
    Error, ErrorKind, FencingToken, Holder,
    backend::{AcquireRequest, Lease},
};

use super::{FileStore, RecordOutcome, joining};
use crate::{
    clock::{now_us, time_of},
    error,
    files::Files,
    floor,
    lockfile::{Inode, LockFile},
    medium::{BegunRecord, NewRecord},
    names::Names,
    open::{self, Access},
    parts::{self, PartsFile, slots::Slots},
    record::{self, RecordState},
    sidecar::{self, RecordRead},
    table::AcquiredLock,
};

impl FileStore {
    /// Writes the record of the new holder, with its token. This process has the lock.
    pub(super) fn record_holder(
        &self,
        request: &AcquireRequest,
        files: &Files,
        (lock, found): (&LockFile, &Metadata),
        begun: BegunRecord,
    ) -> Result<RecordOutcome, Error> {
        let here_us = now_us();
        let server_us = begun.server_us()?;
        let now_us = server_us.unwrap_or(here_us);
        let previous = sidecar::read(&files.record, self.medium.open_flags())?;
        if self.may_have_queue(&previous, found)
            && let Some(holder) = self.behind_queue(request, files)?
        {
            return Ok(RecordOutcome::Behind(holder));
        }
        let previous = match previous {
            RecordRead::Record(record) if record.hold_left(now_us).is_some() => {
                let store_time = server_us.map_or_else(|| self.medium.store_time(), time_of);
                let holder = RecordRead::Record(record).holder(now_us, || None);
                return Ok(RecordOutcome::MinHold(holder.with_store_time(store_time)));
            }
            read => readable(read, files),
        };
        let parts = self.ended_parts(files, previous.as_ref())?;
        if let Some(holder) = Holder::of_several(parts.kept(now_us)) {
            let store_time = server_us.map_or_else(|| self.medium.store_time(), time_of);
            return Ok(RecordOutcome::MinHold(holder.with_store_time(store_time)));
        }
        let before = match &previous {
            Some(record) => record.token().max(parts.last_token()),
            None => floor::read(&self.directory, self.medium.open_flags())?,
        };
        let token = joining::next(before, now_us, request.reserved_tokens, files)?;
        let bytes = record::held(request, token, now_us, self.process);
        if bytes.len() > record::MAX_BYTES {
            let what = format!("the lock record has {} bytes, and the limit is {}", bytes.len(), record::MAX_BYTES);
            return Err(Error::new(ErrorKind::Limit, what + "; attach less data"));
        }
        let (replaces, previous_token) = (previous.is_some(), before.filter(|_| previous.is_some()));
        let sharing = lock.sharing(self.mode);
        let new = NewRecord { directory: &self.directory, files, bytes: &bytes, replaces, sharing };
        let mut is_told_once = true;
        let file = match self.medium.place_record(&new, begun) {
            Ok(file) => Some(file),
            // A token from the clock is exceeded by the next one although it is not kept.
            Err(error) if self.allows_no_record(replaces, &error) && is_from_clock(token, now_us, request) => {
                let marked = self.mark_previous(files, previous.as_ref(), &parts);
                is_told_once = marked.unwrap_or_else(|error| {
                    tracing::debug!(name = %request.name, %error, "the record of the crashed holder stays");
                    false
                });
                self.go_without_record(request, &error);
                None
            }
            Err(error) => return Err(error),
        };
        let crashed = match previous {
            // The record of the crash stays, and each holder would report it.
            _ if !is_told_once => None,
            Some(record) if record.state == RecordState::Held => Some(record.into_holder()),
            _ => Holder::of_several(parts.crashed()),
        };
        if let Some(holder) = &crashed {
            tracing::debug!(name = %request.name, %holder, "the previous holder ended without releasing the lock");
        }
        let (record, skew_us) = (file, now_us.wrapping_sub(here_us).cast_signed());
        Ok(RecordOutcome::Granted { record, token, previous_token, crashed, skew_us })
    }

    /// Returns whether a lock may be held although its record could not be written, because of
    /// `error`.
    pub(super) fn allows_no_record(&self, replaces: bool, error: &Error) -> bool {
        if error::is_full(error) {
            return self.medium.allows_no_record(replaces);
        }
        // flock(1) locks a file in a directory that its user may not write to.
        self.names() == Names::Plain && self.medium.keeps_locks() && error::is_refused(error)
    }

    /// Tells that a lock has no record, and waits until the clock has passed its tokens.
    pub(super) fn go_without_record(&self, request: &AcquireRequest, error: &Error) {
        const WITHOUT: &str =
            "the lock was acquired without a record: others cannot see its holder, and a crash is not reported";
        match error::is_full(error) {
            true => tracing::warn!(name = %request.name, %error, "{WITHOUT}"),
            // That is so in every run, and as with flock(1).
            false => tracing::debug!(name = %request.name, %error, "{WITHOUT}"),
        }
        // No call tells when a clock has passed a time, and this thread has the lock meanwhile.
        // Twice, because the clock of a server may be slower than this pause. At most 2 ms.
        thread::sleep(2 * Duration::from_micros(1 + u64::from(request.reserved_tokens)));
    }

    /// Returns the records of the parts if they held the lock last. This process has the lock, so
    /// all of them have ended.
    pub(crate) fn ended_parts(&self, files: &Files, previous: Option<&record::Record>) -> Result<Slots, Error> {
        match previous {
            Some(record) if record.state == RecordState::Joined => {
                let slots = parts::records(&files.parts, self.medium.open_flags())?;
                Ok(slots.since(record.token()))
            }
            _ => Ok(Slots::default()),
        }
    }

    /// Marks the records of crashed holders as released, by writes that need no room. The records
    /// stay, and the next holder must not hear of this crash again. Returns whether it will not.
    fn mark_previous(&self, files: &Files, previous: Option<&record::Record>, parts: &Slots) -> Result<bool, Error> {
        let flags = self.medium.open_flags();
        if previous.is_some_and(|record| record.state == RecordState::Held)
            && let (_, Some(file)) = sidecar::open(&files.record, Access::ReadWrite, flags)?
        {
            let marked = self.medium.mark_released(&file, 0, Duration::ZERO);
            marked.map_err(|e| error::at("mark", &files.record, e))?;
        }
        let crashed: Vec<_> = parts.looking_held().collect();
        if crashed.is_empty() {
            return Ok(true);
        }
        let file = PartsFile::open(&files.parts, self.mode_beside(files), flags)?;
        // All parts are locked before the first mark: a holder that cannot mark all of them is told
        // of none. A part is locked only where an NFS server still keeps the lock of a dead client.
        // Closing the file frees the parts.
        for &number in &crashed {
            if !file.try_lock_part(number)? {
                return Ok(false);
            }
        }
        for number in crashed {
            let marked = file.mark_released(number, 0, Duration::ZERO);
            file.unlock_part(number);
            marked.map_err(|e| error::at("mark", &files.parts, e))?;
        }
        Ok(true)
    }

    /// Places `record` again if its path names another file or none.
    ///
    /// A program may have removed the record. On NFS the network may have delivered the record of
    /// an earlier client late. Without the record the minimum hold would bind no client.
    pub(super) fn keep_record(&self, lease: &Lease, held: &AcquiredLock, record: &File) -> io::Result<()> {
        let files = self.files_of(&lease.name);
        let sharing = held.lock.sharing(self.mode);
        self.medium.refresh_directory(&self.directory).map_err(io::Error::other)?;
        if Inode::of(&record.metadata()?).is_at(&files.record).map_err(io::Error::other)? {
            return Ok(());
        }
        sidecar::read(&files.record, self.medium.open_flags()).map_err(io::Error::other)?;
        let bytes = open::read_start(record, record::MAX_BYTES)?;
        let new = NewRecord { directory: &self.directory, files: &files, bytes: &bytes, replaces: false, sharing };
        self.medium.place_record(&new, BegunRecord::Nothing).map(drop).map_err(io::Error::other)
    }
}

/// Returns the record of the previous holder, and warns if it is none.
fn readable(read: RecordRead, files: &Files) -> Option<record::Record> {
    match read {
        RecordRead::Record(record) => Some(record),
        RecordRead::Absent => None,
        RecordRead::Garbage => {
            tracing::warn!(
                file = %files.record.display(),
                "replacing an invalid lock record; its fencing token is lost, and the next one comes from the clock"
            );
            None
        }
    }
}

/// Returns whether `token`, and those that are reserved before it, were taken from the clock.
fn is_from_clock(token: FencingToken, now_us: u64, request: &AcquireRequest) -> bool {
    token.get() == now_us + u64::from(request.reserved_tokens)
}
