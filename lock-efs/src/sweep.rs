//! Removes the files of names that are no longer used.

use std::{
    fs::{self, Metadata},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use lock_core::{Error, ErrorKind, LockName};
use nix::fcntl::{FlockArg, OFlag};

use crate::{
    backend::FileBackend,
    clock::now_us,
    error, fair,
    files::Files,
    floor::LockedFloor,
    lockfile::{LockFile, try_flock},
    medium::{kernel_locks::KernelLocks, nfs::DIRECTORY_CACHE, temp_record::TEMP_RECORD_PREFIX},
    names::Names,
    open::{self, Access},
    parts::slots::Slots,
    record::{self, Record, RecordState},
    retire,
    sidecar::{self, RecordRead},
    store::FileStore,
};

/// Settings of a sweep. [`FileBackend::sweep`] runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweep {
    idle_for: Duration,
    dry_run: bool,
}

impl Sweep {
    /// Removes all names that are free and have not been acquired or released for `idle_for`.
    ///
    /// Choose a time longer than the pause between two runs of the rarest job.
    pub fn new(idle_for: Duration) -> Self {
        Self { idle_for, dry_run: false }
    }

    /// Sets whether to report what would be removed, without removing it.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
}

/// The result of a sweep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct Swept {
    /// What was removed, or would be in a dry run: the lock file of each name, which stands for
    /// all its files, or its emptied record where lock files stay.
    pub removed: Vec<PathBuf>,
    /// The number of names that stay: used recently, held, never used by onelock, or with a file
    /// that could not be examined. A warning names such a file.
    pub kept: usize,
}

impl FileBackend {
    /// Removes the files of idle names.
    ///
    /// Each file is removed under its lock and only if its path still names it. So no holder and no
    /// waiter of onelock is disturbed, and fencing tokens continue to rise. Names without a record
    /// of onelock, which only `flock(1)` or `filelock` use, stay. So do files that onelock did not
    /// write.
    ///
    /// On NFS, and on file systems of unknown kind, records are emptied and all files stay. There
    /// a lock can be lost at any moment, and the network may deliver a removal after that. It
    /// would remove the lock file of the next holder.
    ///
    /// Blocks until all names are examined.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] while another sweep of this
    /// directory runs. Otherwise the error that stopped the sweep.
    pub fn sweep(&self, sweep: Sweep) -> Result<Swept, Error> {
        self.store().sweep(sweep)
    }
}

impl FileStore {
    pub(crate) fn sweep(&self, sweep: Sweep) -> Result<Swept, Error> {
        if self.names() == Names::Plain {
            let what = "with names=plain the lock files belong to other programs too, so that none is removed; sweep \
                the directory without names=plain";
            return Err(Error::new(ErrorKind::Unsupported, what).with_ambiguous(false));
        }
        // One sweep at a time, because a sweep reads and then writes the floor.
        let mut floor = match sweep.dry_run {
            true => None,
            false => Some(LockedFloor::lock(self.directory(), self.mode())?),
        };
        let fail = |e: io::Error| error::at("list the directory", self.directory(), e);
        let mut swept = Swept::default();
        for entry in fs::read_dir(self.directory()).map_err(fail)? {
            let file_name = entry.map_err(fail)?.file_name();
            let Some(file_name) = file_name.to_str() else { continue };
            if file_name.starts_with(TEMP_RECORD_PREFIX) && !sweep.dry_run {
                self.remove_temp_record(file_name, sweep.idle_for);
            }
            let Some(stem) = file_name.strip_suffix(".lock") else { continue };
            match self.sweep_name(&self.files(stem), sweep, floor.as_mut()) {
                Ok(Some(removed)) => swept.removed.push(removed),
                Ok(None) => swept.kept += 1,
                Err(error) if error::is_of_one_file(&error) => {
                    tracing::warn!(file = %file_name, %error, "this name was not swept");
                    swept.kept += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(swept)
    }

    /// Removes a name that has no holder and no waiter and that its last holder released.
    ///
    /// The name must never be used again, because the floor of the tokens is not raised.
    pub(crate) fn purge(&self, name: &LockName) -> Result<bool, Error> {
        self.names().check(name)?;
        let files = self.files_of(name);
        // The record of a crashed holder stays, so that the next holder learns of the crash.
        let was_released =
            |record: &Record, parts: &Slots| Ok(record.state != RecordState::Held && parts.crashed().is_empty());
        if !has_content(&files.record)? {
            return Ok(!self.is_locked(&files.lock, &KernelLocks::read())?);
        }
        Ok(self.remove(&files, Duration::ZERO, was_released)?.is_some())
    }

    /// Removes a name if it is idle, and returns the path that tells it.
    fn sweep_name(
        &self,
        files: &Files,
        sweep: Sweep,
        floor: Option<&mut LockedFloor>,
    ) -> Result<Option<PathBuf>, Error> {
        if !is_idle(files, sweep.idle_for) || self.was_used_by_path(files)? {
            return Ok(None);
        }
        let Some(floor) = floor else { return Ok(Some(self.told(files))) };
        let keep_token = |record: &Record, parts: &Slots| {
            record.token().max(parts.last_token()).map_or(Ok(()), |token| floor.raise(token)).map(|()| true)
        };
        self.remove(files, sweep.idle_for, keep_token)
    }

    /// Returns whether the last holder took the lock by the path of its file. Scripts that use
    /// `flock(1)` may use that file too, and their use leaves no trace.
    fn was_used_by_path(&self, files: &Files) -> Result<bool, Error> {
        let (read, _) = sidecar::open(&files.record, Access::Read, self.medium().open_flags())?;
        let lock = files.lock.file_name();
        Ok(matches!(read, RecordRead::Record(record) if lock == Some(record.body.name.as_ref())))
    }

    /// Removes the files of an idle name under its lock, if its record `may_go`.
    fn remove(
        &self,
        files: &Files,
        idle_for: Duration,
        may_go: impl FnOnce(&Record, &Slots) -> Result<bool, Error>,
    ) -> Result<Option<PathBuf>, Error> {
        let Some(lock) = LockFile::open_existing(&files.lock)? else { return Ok(None) };
        if !lock.was_empty() || !lock.try_lock(&files.lock)? {
            return Ok(None);
        }
        self.medium().refresh_directory(self.directory())?;
        if !lock.inode.is_at(&files.lock)? || !is_idle(files, idle_for) || is_queued(&files.queue) {
            return Ok(None);
        }
        let keeps_locks = self.medium().keeps_locks();
        let access = if keeps_locks { Access::Read } else { Access::ReadWrite };
        let (RecordRead::Record(record), Some(file)) =
            sidecar::open(&files.record, access, self.medium().open_flags())?
        else {
            return Ok(None);
        };
        let parts = self.ended_parts(files, Some(&record))?;
        let is_kept = record.hold_left(now_us()).is_some() || !parts.kept(now_us()).is_empty();
        if is_kept || !may_go(&record, &parts)? {
            return Ok(None);
        }
        match keeps_locks {
            true => {
                let Some(_closed) = fair::close(&files.fair)? else { return Ok(None) };
                retire::remove_files(files)?;
            }
            false => retire::empty_record(files, &file)?,
        }
        Ok(Some(self.told(files)))
    }

    /// Returns the path that a sweep reports for a name.
    fn told(&self, files: &Files) -> PathBuf {
        if self.medium().keeps_locks() { files.lock.clone() } else { files.record.clone() }
    }

    /// Removes the temporary record of an acquisition that ended early, if the record is old
    /// enough.
    fn remove_temp_record(&self, file_name: &str, idle_for: Duration) {
        let path = self.directory().join(file_name);
        let id = file_name.strip_prefix(TEMP_RECORD_PREFIX).unwrap_or_default();
        if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return;
        }
        let Ok(opened) = open::existing(&path, Access::Read, OFlag::empty()) else { return };
        let is_ours = open::read_start(&opened.file, record::MAGIC.len()).is_ok_and(|start| record::is_ours(&start));
        if is_ours && is_older(&opened.found, idle_for.max(DIRECTORY_CACHE)) {
            let _ = fs::remove_file(path);
        }
    }
}

fn has_content(record: &Path) -> Result<bool, Error> {
    match fs::symlink_metadata(record) {
        Ok(found) => Ok(found.len() > 0),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(error::at("inspect the lock record", record, e)),
    }
}

/// Returns whether onelock used the name, but not within `idle_for`.
fn is_idle(files: &Files, idle_for: Duration) -> bool {
    let is_old = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| is_older(&found, idle_for));
    // An earlier sweep emptied the record, or a crash did.
    let is_old_or_missing = |path: &Path| !path.exists() || is_old(path);
    has_content(&files.record).unwrap_or(false)
        && is_old(&files.record)
        && is_old(&files.lock)
        && is_old_or_missing(&files.parts)
}

fn is_older(found: &Metadata, age: Duration) -> bool {
    found.modified().is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|since| since >= age))
}

/// Returns whether processes wait for the name.
fn is_queued(queue: &Path) -> bool {
    open::existing(queue, Access::Read, OFlag::empty())
        .is_ok_and(|queue| !matches!(try_flock(&queue.file, FlockArg::LockSharedNonblock), Ok(true)))
}
