//! Reads the record beside a lock file, and marks it as released.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};

use lock_core::{Error, Holder};
use nix::{errno::Errno, fcntl::OFlag};

use crate::{
    error,
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
    /// Returns the holder of a lock that is known to be held.
    pub(crate) fn holder(self, now_us: u64) -> Holder {
        match self {
            Self::Record(record) if record.state == RecordState::Held => record.into_holder(),
            Self::Garbage => Holder::default(),
            other => other
                .min_holder(now_us)
                .unwrap_or_else(|| Holder::default().with_foreign("a flock(2) holder without a record".to_owned())),
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
        matches!(self, Self::Record(r) if r.state == RecordState::Held || r.hold_left(now_us).is_some())
    }
}

/// Reads the record at `path`.
pub(crate) fn read(path: &Path) -> Result<RecordRead, Error> {
    let bytes = match read_bytes(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(RecordRead::Absent),
        Err(e) => match e.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ELOOP | Errno::EISDIR | Errno::ENXIO) => return Ok(RecordRead::Garbage),
            _ => return Err(error::at("read the lock record", path, e)),
        },
    };
    Ok(match Record::parse(&bytes) {
        Ok(record) => RecordRead::Record(record),
        Err(garbage) => {
            tracing::debug!(file = %path.display(), %garbage, "invalid lock record");
            RecordRead::Garbage
        }
    })
}

/// Like [`read`], for callers that only report the holder: an unreadable record counts as garbage.
pub(crate) fn peek(path: &Path) -> RecordRead {
    read(path).unwrap_or_else(|error| {
        tracing::debug!(file = %path.display(), %error, "cannot read the lock record");
        RecordRead::Garbage
    })
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    // O_NONBLOCK, because opening a pipe at the record's path would block forever.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let mut bytes = vec![0; 4096];
    let n = file.read(&mut bytes)?;
    bytes.truncate(n);
    if n == 4096 {
        file.take(record::MAX_BYTES as u64 + 1 - 4096).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Marks the record in `file` as released, by one write of a fixed size in place.
pub(crate) fn mark_released(file: &File, now_us: u64, hold_for: Duration) -> io::Result<()> {
    file.write_all_at(record::released(now_us, hold_for).as_bytes(), 0)
}
