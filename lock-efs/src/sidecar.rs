//! Reads the record beside a lock file, and marks it as released.

use std::{fs::File, io, num::NonZeroU32, os::unix::fs::FileExt, path::Path, time::Duration};

use lock_core::{Error, FencingToken, Holder, Mode};
use nix::fcntl::OFlag;

use crate::{
    error,
    open::{self, Access},
    process::LockingProcess,
    record::{self, Record, RecordState},
};

/// The result of reading a record.
#[derive(Debug)]
pub(crate) enum RecordRead {
    Absent,
    Garbage,
    Record(Record),
}

impl RecordRead {
    /// Returns the holder of a lock that is known to be held. `listed` returns the process that the
    /// kernel lists as its holder.
    pub(crate) fn holder(self, now_us: u64, listed: impl FnOnce() -> Option<LockingProcess>) -> Holder {
        match self {
            Self::Record(record) if record.state == RecordState::Held => {
                let crashed = record.body.process.filter(|recorded| recorded.has_ended());
                match crashed.and_then(|recorded| listed().filter(|listed| !listed.is(recorded))) {
                    Some(successor) => without_record(Some(successor)),
                    None => record.into_holder(),
                }
            }
            Self::Garbage => Holder::default(),
            Self::Record(record) if record.state == RecordState::Joined => {
                without_record(listed()).with_mode(Mode::Shared)
            }
            other => other.min_holder(now_us).unwrap_or_else(|| without_record(listed())),
        }
    }

    /// Returns whether the record is of an acquisition that was not released.
    pub(crate) fn names_a_holder(&self) -> bool {
        matches!(self, Self::Record(record) if record.state == RecordState::Held)
    }

    /// Returns the token from which on the holders are in the file of the parts, if they are.
    pub(crate) fn joined_from(&self) -> Option<FencingToken> {
        match self {
            Self::Record(record) if record.state == RecordState::Joined => record.token(),
            _ => None,
        }
    }

    /// Returns the last holder if its minimum hold has not ended yet.
    pub(crate) fn min_holder(self, now_us: u64) -> Option<Holder> {
        let Self::Record(record) = self else { return None };
        let left = record.hold_left(now_us)?;
        Some(record.into_holder().with_expires_in(left))
    }

    /// Returns whether the record explains why the lock was refused.
    pub(crate) fn explains_a_refusal(&self, now_us: u64) -> bool {
        let explains = |state| matches!(state, RecordState::Held | RecordState::Joined);
        matches!(self, Self::Record(r) if explains(r.state) || r.hold_left(now_us).is_some())
    }
}

fn without_record(process: Option<LockingProcess>) -> Holder {
    let Some(process) = process else {
        return Holder::default().with_foreign("a flock(2) holder without a record".to_owned());
    };
    let mode = if process.shared { Mode::Shared } else { Mode::Exclusive };
    let holder = Holder::default().with_foreign(format!("{process} without a record")).with_mode(mode);
    holder.with_process(NonZeroU32::new(process.pid))
}

/// Reads the record at `path`, with the `flags` of its medium. An empty file, as a crash or a sweep
/// leaves it, is no record.
///
/// # Errors
/// If another program's file is there, which must not be changed.
pub(crate) fn read(path: &Path, flags: OFlag) -> Result<RecordRead, Error> {
    open(path, Access::Read, flags).map(|(record, _)| record)
}

/// Like [`read`], and returns the file too.
pub(crate) fn open(path: &Path, access: Access, flags: OFlag) -> Result<(RecordRead, Option<File>), Error> {
    let fail = |e: io::Error| error::at("read the lock record", path, e);
    let file = match open::existing(path, access, flags) {
        Ok(opened) => opened.file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((RecordRead::Absent, None)),
        Err(e) => return Err(fail(e)),
    };
    let bytes = open::read(&file, record::MAX_BYTES + 1).map_err(fail)?;
    let read = match Record::parse(&bytes) {
        _ if bytes.is_empty() => RecordRead::Absent,
        Ok(record) => RecordRead::Record(record),
        Err(_) if !record::is_ours(&bytes) => return Err(error::stranger(path)),
        Err(garbage) => {
            tracing::debug!(file = %path.display(), %garbage, "invalid lock record");
            RecordRead::Garbage
        }
    };
    Ok((read, Some(file)))
}

/// Like [`read`], for callers that only report the holder: an unreadable record counts as garbage.
pub(crate) fn peek(path: &Path, flags: OFlag) -> RecordRead {
    read(path, flags).unwrap_or_else(|error| {
        tracing::debug!(file = %path.display(), %error, "cannot read the lock record");
        RecordRead::Garbage
    })
}

/// Marks the record in `file` as released, by one write of a fixed size in place.
///
/// Another program may have written to the file since this process did.
pub(crate) fn mark_released(file: &File, now_us: u64, hold_for: Duration) -> io::Result<()> {
    if !open::read_start(file, record::MAGIC.len())?.starts_with(record::MAGIC) {
        return Err(io::Error::other("another program has changed the record, which was left unchanged"));
    }
    file.write_all_at(record::released(now_us, hold_for).as_bytes(), 0)
}
