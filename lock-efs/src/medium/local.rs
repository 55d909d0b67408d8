//! Local file systems, and file systems of unknown kind, which are treated as local.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    time::{Duration, SystemTime},
};

use lock_core::Error;
use nix::fcntl::{FlockArg, OFlag};

use super::{
    BegunRecord, Medium, NewRecord, Probe,
    fresh::LastRefresh,
    kernel_locks::KernelLocks,
    refusal::{CachedHolder, LockAttempt, SECOND_TRIES},
};
use crate::{
    error,
    lockfile::{LockFile, try_flock},
    mode::Sharing,
    open::{self, Access, Opened},
    parts::GateWait,
    process::LockingProcess,
    record, sidecar,
};

/// A file system of this machine, or one of unknown kind.
#[derive(Debug)]
pub(crate) struct Local {
    /// Whether a lock is never lost while its process lives, so that the files of a locked name
    /// can be removed.
    pub(crate) keeps_locks: bool,
}

impl Medium for Local {
    fn open_flags(&self) -> OFlag {
        OFlag::empty()
    }

    fn try_lock(
        &self,
        attempt: &LockAttempt<'_>,
        _cached: Option<CachedHolder>,
    ) -> Result<Option<CachedHolder>, Error> {
        if attempt.succeeds()? {
            return Ok(None);
        }
        attempt.try_again((attempt.peek)())
    }

    fn is_alone(&self, lock: &LockFile, path: &Path) -> Result<Option<bool>, Error> {
        is_alone(lock, path, || ())
    }

    fn gate_wait(&self) -> GateWait {
        GateWait {
            limit: Duration::from_millis(100),
            limit_of_waiting: Duration::from_millis(5),
            longest_pause: Duration::from_millis(2),
        }
    }

    /// The kernel keeps a local lock until it is released or closed. Only the removal of its file
    /// breaks the lock.
    fn check(&self, lock: &LockFile, path: &Path, _: &LastRefresh) -> Result<Probe, Error> {
        Ok(if lock.inode.is_at(path)? { Probe::StillHeld } else { Probe::removed(path) })
    }

    /// A lock that the kernel does not list is tried with a shared lock, released at once. A client
    /// that tries in these microseconds is refused without a record that names a holder, and tries
    /// again.
    fn is_locked(&self, path: &Path, known: &KernelLocks) -> Result<bool, Error> {
        let fail = |e: io::Error| error::at("inspect the lock file", path, e);
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(fail(e)),
        };
        if known.list(&found) {
            return Ok(true);
        }
        let file = match open::existing(path, Access::Read, OFlag::empty()) {
            Ok(opened) => opened.file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(fail(e)),
        };
        let got_it = try_flock(&file, FlockArg::LockSharedNonblock).map_err(|e| fail(e.into()))?;
        Ok(!got_it)
    }

    fn holding_process(&self, path: &Path, known: &KernelLocks) -> Option<LockingProcess> {
        known.process_at(path)
    }

    /// Prepares nothing: the path is current, and the file system uses this machine's clock.
    fn begin_record(&self, _: &LockFile, _: &Path, _: Sharing) -> Result<BegunRecord, Error> {
        Ok(BegunRecord::Nothing)
    }

    fn place_record(&self, record: &NewRecord<'_>, _begun: BegunRecord) -> Result<File, Error> {
        replace(record, self.keeps_locks)
    }

    /// If there is a record, it can be overwritten in place.
    fn allows_no_record(&self, replaces: bool) -> bool {
        self.keeps_locks && !replaces
    }

    fn mark_released(&self, file: &File, now_us: u64, hold_for: Duration) -> io::Result<()> {
        sidecar::mark_released(file, now_us, hold_for)
    }

    /// Closing a file that was open for reading is an event too.
    fn wake_watches(&self, path: &Path) {
        drop(open::existing_or_directory(path, Access::Read, OFlag::empty()));
    }

    fn refresh_directory(&self, _: &Path) -> Result<(), Error> {
        Ok(())
    }

    /// The hosts of a file system of unknown kind have clocks of their own.
    fn store_time(&self) -> Option<SystemTime> {
        self.keeps_locks.then(SystemTime::now)
    }

    fn server_us(&self, _: &LockFile) -> io::Result<Option<u64>> {
        Ok(None)
    }

    fn is_nfs(&self) -> bool {
        false
    }

    fn keeps_locks(&self) -> bool {
        self.keeps_locks
    }

    fn many_locks(&self) -> Option<usize> {
        None
    }
}

/// Writes the record to the spare file, and then replaces the previous record with it.
///
/// If the previous record is readable, the two files are exchanged, and the next record overwrites
/// the older one. The reason is speed: after a rename over a file, ext4 writes the new file to disk
/// at once. That takes five times as long as the rest of an acquisition. A reader that keeps the
/// file open across two acquisitions may see a mixed record. That is no worse than an outdated one.
///
/// The record is not synchronised to disk: if a token is lost with its record, the clock supplies a
/// larger one.
fn replace(record: &NewRecord<'_>, keeps_locks: bool) -> Result<File, Error> {
    let (path, spare) = (&record.files.record, &record.files.spare);
    let file = match write_spare(spare, record) {
        Err(full) if keeps_locks && record.replaces && error::is_full(&full) => return overwrite(record, full),
        result => result?,
    };
    // Where a lock can be lost, each record is a new file, so that a late request of an earlier
    // holder cannot reach it.
    if !(keeps_locks && record.replaces && exchange(spare, path)) {
        fs::rename(spare, path).map_err(|e| {
            // Under the sticky bit the owner of the record could not move it either.
            let _ = fs::remove_file(spare);
            error::at("replace the lock record", path, e)
        })?;
    }
    Ok(file)
}

fn write_spare(spare: &Path, record: &NewRecord<'_>) -> Result<File, Error> {
    let fail = |e: io::Error| error::at("write the lock record", spare, e);
    let open = || open::or_create(spare, record.sharing.file, OFlag::empty()).map_err(fail);
    let mut opened = open()?;
    if !opened.created && !record::is_ours(&open::read_start(&opened.file, record::MAGIC.len()).map_err(fail)?) {
        return Err(error::stranger(spare));
    }
    if opened.found.nlink() > 1 {
        // A backup may keep the file under a second name.
        fs::remove_file(spare).map_err(fail)?;
        opened = open()?;
    }
    let Opened { file, found, created } = opened;
    if created {
        record.sharing.apply(&file, &found, spare);
    }
    file.write_all_at(record.bytes, 0).map_err(fail)?;
    if found.size() > record.bytes.len() as u64 {
        file.set_len(record.bytes.len() as u64).map_err(fail)?;
    }
    Ok(file)
}

/// Writes the record in place of the previous one, where a `full` disk has no room for another
/// file. A reader may see a mixed record, and after a crash its token may be lost.
fn overwrite(record: &NewRecord<'_>, full: Error) -> Result<File, Error> {
    let path = &record.files.record;
    let opened = open::existing(path, Access::ReadWrite, OFlag::empty());
    let Opened { file, found, .. } = opened.map_err(|e| error::at("write the lock record", path, e))?;
    let length = usize::try_from(found.size()).unwrap_or(usize::MAX);
    let start = open::read_start(&file, record::MAGIC.len()).map_err(|e| error::at("read the lock record", path, e))?;
    let text = record.bytes.trim_ascii_end();
    if length > record::MAX_BYTES || text.len() > length || !start.starts_with(record::MAGIC) {
        return Err(full);
    }
    let mut bytes = text.to_vec();
    bytes.resize(length, b' ');
    // On some file systems even this needs space.
    file.write_all_at(&bytes, 0).map_err(|_| full)?;
    Ok(file)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn exchange(a: &Path, b: &Path) -> bool {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE).is_ok()
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn exchange(_: &Path, _: &Path) -> bool {
    false
}

/// An inspection shares the lock for microseconds, so a refused try is repeated. The refusal has
/// freed the shared lock, and others may have held the lock since. `before_retry` is for tests.
fn is_alone(lock: &LockFile, path: &Path, mut before_retry: impl FnMut()) -> Result<Option<bool>, Error> {
    if lock.try_lock(path)? {
        return Ok(lock.try_lock_shared(path)?.then_some(true));
    }
    for _ in 1..SECOND_TRIES {
        before_retry();
        if lock.try_lock(path)? {
            return Ok(None);
        }
    }
    Ok(Some(false))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use lock_core::backend::LeaseId;

    use super::*;
    use crate::{lockfile::flock, mode::Mode, sidecar::RecordRead};

    #[test]
    // verifies: P1, P12
    fn a_shared_lock_that_was_free_for_a_moment_is_acquired_anew() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("etl.lock");
        let mode = Mode { file: 0o600, directory: 0o700, exact: false };
        let lock = LockFile::open(&path, mode, OFlag::empty()).expect("a fresh file opens");
        let inspector = File::open(&path).expect("the lock file exists");
        let share = || assert_eq!(try_flock(&inspector, FlockArg::LockSharedNonblock), Ok(true));
        let free = || flock(&inspector, FlockArg::Unlock).expect("unlocking cannot fail");
        assert!(lock.try_lock_shared(&path).expect("no error"));
        assert_eq!(is_alone(&lock, &path, || ()).expect("no error"), Some(true));
        share();
        assert_eq!(is_alone(&lock, &path, free).expect("no error"), None, "another may have held it between");
        assert!(lock.try_lock_shared(&path).expect("no error"));
        share();
        assert_eq!(is_alone(&lock, &path, || ()).expect("no error"), Some(false));
    }

    #[test]
    fn a_lock_taken_only_for_a_moment_is_not_refused() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("etl.lock");
        let mode = Mode { file: 0o600, directory: 0o700, exact: false };
        let local = Local { keeps_locks: true };
        let lock = LockFile::open(&path, mode, local.open_flags()).expect("a fresh file opens");
        for peeks_until_free in 0..=SECOND_TRIES + 1 {
            let inspector = File::open(&path).expect("the lock file exists");
            assert_eq!(try_flock(&inspector, FlockArg::LockSharedNonblock), Ok(true));
            let peeks = Cell::new(0);
            let peek = || {
                peeks.set(peeks.get() + 1);
                if peeks.get() == peeks_until_free {
                    flock(&inspector, FlockArg::Unlock).expect("unlocking cannot fail");
                }
                RecordRead::Absent
            };
            let attempt = LockAttempt {
                id: LeaseId::from(7),
                lock: &lock,
                shared: false,
                path: &path,
                peek: &peek,
                listed: &|| None,
            };
            let refused = local.try_lock(&attempt, None).expect("no error");
            assert_eq!(refused.is_none(), (1..=SECOND_TRIES).contains(&peeks_until_free), "{peeks_until_free}");
            lock.unlock(&path).expect("unlocking cannot fail");
        }
    }
}
