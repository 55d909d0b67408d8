//! The parts of a lock that has several holders: who holds one, who is taking one, and who waits.
//!
//! `NAME.parts` has locks of single bytes, and a record for each part:
//!
//! | byte | its lock means |
//! | --- | --- |
//! | 0 | the gate: a process is taking a part, or is beginning to wait |
//! | 1, 2, 3 | an exclusive, a shared, a permit request waits for holders of another mode |
//! | 16 + n | part n is held |
//!
//! The first page has the first word of the files of onelock, and page n + 1 the record of part n.
//! The holder of a part also has a shared lock on the lock file, which excludes exclusive holders.
//! The kernel ends all these locks with their process.
//!
//! A record is written through the descriptor that has the lock of its part or of the gate. So an
//! NFS server refuses a write that arrives after the lock was lost.

pub(crate) mod free;
pub(crate) mod marks;
pub(crate) mod slots;

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use lock_core::{Error, Mode as LockMode, backend::AcquireRequest};
use nix::{errno::Errno, fcntl::OFlag};

use self::slots::Slots;
use crate::{
    byte_locks, error,
    held::HeldLock,
    lockfile::LockFile,
    mode::Mode,
    open::{self, Access},
    record,
};

/// How many holders a name has at most. EFS allows 512 locks on one file, and the gate and the
/// waiting requests need a few.
pub(crate) const MOST: usize = 256;
/// The space of one record. The file with all records has a megabyte.
pub(crate) const PART_BYTES: usize = 4096;
const FILE_BYTES: usize = PART_BYTES * (MOST + 1);
/// As much as is read first. A file of a few parts needs one read.
const USUAL_BYTES: usize = 16 * PART_BYTES;
const HEAD: &str = "onelock/1 parts\n";

const GATE: u64 = 0;
const FIRST_MARK: u64 = 1;
const FIRST_PART: u64 = 16;

/// An open file of the parts.
#[derive(Debug)]
pub(crate) struct PartsFile {
    pub(crate) file: LockFile,
    pub(crate) path: PathBuf,
    is_new: bool,
}

/// A part that this process holds.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) file: Arc<PartsFile>,
    pub(crate) number: usize,
    pub(crate) _held: HeldLock,
}

/// How long and how often the gate is tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GateWait {
    pub(crate) limit: Duration,
    /// The limit of a request that is repeated while it is refused.
    pub(crate) limit_of_waiting: Duration,
    pub(crate) longest_pause: Duration,
}

impl GateWait {
    /// Returns the limits for `request`.
    pub(crate) fn of(self, request: &AcquireRequest) -> Self {
        if request.waits { Self { limit: self.limit_of_waiting, ..self } } else { self }
    }

    /// Returns the limits for a holder, whose call is not repeated.
    pub(crate) fn of_holder(self) -> Self {
        Self { limit: self.limit.max(Duration::from_millis(500)), ..self }
    }
}

/// The gate of a file of parts, locked until it is dropped.
#[derive(Debug)]
pub(crate) struct Gate<'a>(&'a PartsFile);

impl Drop for Gate<'_> {
    /// Unlocks it, because a child between fork and exec would delay the effect of a close.
    fn drop(&mut self) {
        if let Err(error) = self.0.file.unlock_byte(GATE) {
            tracing::debug!(file = %self.0.path.display(), %error, "cannot unlock the gate of the parts");
        }
    }
}

impl PartsFile {
    /// Opens or creates the file, with the `flags` of its medium.
    pub(crate) fn open(path: &Path, mode: Mode, flags: OFlag) -> Result<Self, Error> {
        let (file, is_new) = LockFile::open_ours(path, mode, flags)?;
        Ok(Self { file, path: path.to_owned(), is_new })
    }

    fn fail(&self, doing: &str, e: impl Into<io::Error>) -> Error {
        error::at(doing, &self.path, e)
    }

    /// Locks the gate. Tries again within `wait` while another process has it: that is a moment,
    /// unless that process is stopped. `None` if it took longer.
    pub(crate) fn enter(&self, wait: GateWait) -> Result<Option<Gate<'_>>, Error> {
        let begun = Instant::now();
        let mut pause = Duration::from_micros(20);
        while !self.try_byte(GATE)? {
            if begun.elapsed() >= wait.limit {
                return Ok(None);
            }
            // A refusal would turn away a reader of a lock that it can share. The call that waits
            // for a byte (F_OFD_SETLKW) has no limit, so it would hang behind a stopped process.
            // Over NFS the kernel polls for it too, with pauses that grow to 30 s.
            thread::sleep(pause);
            pause = (pause * 2).min(wait.longest_pause);
        }
        Ok(Some(Gate(self)))
    }

    fn try_byte(&self, byte: u64) -> Result<bool, Error> {
        self.file.try_lock_byte(byte).map_err(|e| self.fail("lock a byte of", e))
    }

    /// Returns whether part `number` is free and was locked.
    pub(crate) fn try_lock_part(&self, number: usize) -> Result<bool, Error> {
        self.try_byte(FIRST_PART + number as u64)
    }

    /// Frees part `number`.
    pub(crate) fn unlock_part(&self, number: usize) {
        if let Err(error) = self.file.unlock_byte(FIRST_PART + number as u64) {
            tracing::debug!(file = %self.path.display(), %error, "cannot unlock a part; closing the file frees it");
        }
    }

    /// Returns all records.
    pub(crate) fn read(&self) -> Result<Slots, Error> {
        read(self.file.file(), &self.path)
    }

    /// Writes the record of part `number`, which this process has locked.
    pub(crate) fn write(&self, number: usize, record: &[u8]) -> Result<(), Error> {
        let mut page = record.to_vec();
        page.resize(PART_BYTES - 1, b' ');
        page.push(b'\n');
        let written = match self.is_new {
            true => self.write_head().and_then(|()| self.write_at(number, &page)),
            false => self.write_at(number, &page),
        };
        written.map_err(|e| self.fail("write the record of a part in", e))
    }

    fn write_head(&self) -> io::Result<()> {
        self.file.file().write_all_at(HEAD.as_bytes(), 0)
    }

    fn write_at(&self, number: usize, bytes: &[u8]) -> io::Result<()> {
        self.file.file().write_all_at(bytes, ((number + 1) * PART_BYTES) as u64)
    }

    /// Marks part `number`, which this process holds, as released.
    pub(crate) fn mark_released(&self, number: usize, now_us: u64, hold_for: Duration) -> io::Result<()> {
        // Another program may have written to the file.
        if !open::read_start(self.file.file(), record::MAGIC.len())?.starts_with(record::MAGIC) {
            return Err(io::Error::other("another program has changed the file of the parts"));
        }
        self.write_at(number, record::released(now_us, hold_for).as_bytes())
    }
}

/// Reads the records of the parts at `path`, and the numbers of the parts that are held, without a
/// lock. Empty without the file.
pub(crate) fn look(path: &Path, flags: OFlag) -> Result<(Slots, Vec<usize>), Error> {
    let Some(file) = existing(path, flags)? else { return Ok((Slots::default(), Vec::new())) };
    let slots = read(&file, path)?;
    let held = held(&file).map_err(|e| error::at("inspect", path, e))?;
    Ok((slots, held))
}

/// Reads the records of the parts at `path`. Empty without the file.
pub(crate) fn records(path: &Path, flags: OFlag) -> Result<Slots, Error> {
    existing(path, flags)?.map_or_else(|| Ok(Slots::default()), |file| read(&file, path))
}

fn existing(path: &Path, flags: OFlag) -> Result<Option<File>, Error> {
    match open::existing(path, Access::Read, flags) {
        Ok(opened) => Ok(Some(opened.file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(error::at("open", path, e)),
    }
}

fn read(file: &File, path: &Path) -> Result<Slots, Error> {
    let start = |limit| open::read_start(file, limit).map_err(|e| error::at("read", path, e));
    let mut bytes = start(USUAL_BYTES)?;
    if bytes.len() == USUAL_BYTES {
        bytes = start(FILE_BYTES)?;
    }
    if !record::is_ours(&bytes[..bytes.len().min(record::MAGIC.len())]) {
        return Err(error::stranger(path));
    }
    Ok(Slots::parse(bytes.get(PART_BYTES..).unwrap_or_default()))
}

/// Returns the numbers of the parts that are held through other descriptors than `file`.
pub(crate) fn held(file: &File) -> Result<Vec<usize>, Errno> {
    let locked = byte_locks::conflicts(file, FIRST_PART..FIRST_PART + MOST as u64)?;
    Ok(locked.into_iter().filter_map(|byte| usize::try_from(byte - FIRST_PART).ok()).collect())
}

/// Returns the byte that is locked while a request of `mode` waits.
fn mark_of(mode: LockMode) -> u64 {
    FIRST_MARK
        + match mode {
            LockMode::Shared => 1,
            LockMode::Permit { .. } => 2,
            _ => 0,
        }
}

impl PartsFile {
    /// Returns whether another descriptor holds a part.
    pub(crate) fn any_held(&self) -> Result<bool, Error> {
        let parts = FIRST_PART..FIRST_PART + MOST as u64;
        let held = byte_locks::conflict(self.file.file(), &parts).map_err(|e| self.fail("inspect", e))?;
        Ok(held.is_some())
    }

    /// Returns whether a request waits that keeps a new holder of `mode` out.
    pub(crate) fn keeps_out(&self, mode: LockMode) -> Result<bool, Error> {
        Ok(self.waiting()?.is_some_and(|mark| mark != mark_of(mode)))
    }

    /// Returns the mark of the request that waits. There is one at most.
    fn waiting(&self) -> Result<Option<u64>, Error> {
        let marks = FIRST_MARK..FIRST_MARK + 3;
        let marked = byte_locks::conflict(self.file.file(), &marks).map_err(|e| self.fail("inspect", e))?;
        Ok(marked.map(|marked| marked.start))
    }
}
