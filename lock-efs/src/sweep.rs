//! Removes the files of names that are no longer used.

use std::{
    fs::{self, File, Metadata},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use lock_core::{Error, ErrorKind, LockName};
use nix::fcntl::{FlockArg, OFlag};

use crate::{
    backend::FileBackend,
    clock::now_us,
    encode, error,
    files::Files,
    floor,
    lockfile::{LockFile, try_flock},
    medium::{nfs::DIRECTORY_CACHE, temp_record::TEMP_RECORD_PREFIX},
    record::{Record, RecordState},
    sidecar::{self, RecordRead},
    store::FileStore,
};

/// Settings of a sweep. [`FileBackend::sweep`] runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweep {
    idle_for: Duration,
    dry_run: bool,
    keep_locked: Option<Duration>,
}

impl Sweep {
    /// Removes all names that are free and have not been acquired or released for `idle_for`.
    ///
    /// Choose a time longer than the pause between two runs of the rarest job.
    pub fn new(idle_for: Duration) -> Self {
        Self { idle_for, dry_run: false, keep_locked: None }
    }

    /// Sets whether to report what would be removed, without removing it.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Sets how long a removed file stays locked.
    ///
    /// The default is a minute on NFS, and zero on a local file system. On NFS other hosts may find
    /// the removed file for a minute, and programs that do not check again, such as `filelock`,
    /// would lock it. onelock checks again and does not need this.
    #[must_use]
    pub fn keep_locked(mut self, keep_locked: Duration) -> Self {
        self.keep_locked = Some(keep_locked);
        self
    }
}

/// The result of a sweep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct Swept {
    /// The lock files that were removed, or would be in a dry run, each with its sidecars.
    pub removed: Vec<PathBuf>,
    /// The number of names that stay: used recently, held, or never used by onelock.
    pub kept: usize,
}

/// How many removed files stay locked at a time. EFS limits the locked files of one process.
const BATCH: usize = 128;
const SWEEP_LOCK: &str = ".onelock-sweep";

impl FileBackend {
    /// Removes the files of idle names.
    ///
    /// Each file is removed under its lock and only if its path still names it. So no holder and no
    /// waiter of onelock is disturbed, and fencing tokens continue to rise. Names without a record
    /// of onelock, which only `flock(1)` or `filelock` use, stay.
    ///
    /// Blocks, on NFS for an additional minute: see [`Sweep::keep_locked`].
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] while another sweep of this directory runs. Otherwise the error
    /// that stopped the sweep.
    pub fn sweep(&self, sweep: Sweep) -> Result<Swept, Error> {
        self.store().sweep(sweep)
    }
}

impl FileStore {
    fn sweep(&self, sweep: Sweep) -> Result<Swept, Error> {
        let _alone = self.lock_sweep()?;
        let keep_locked = sweep.keep_locked.unwrap_or_else(|| self.medium().removal_delay());
        let fail = |e: io::Error| error::at("list the directory", self.directory(), e);
        let mut swept = Swept::default();
        let mut locked = Vec::new();
        for entry in fs::read_dir(self.directory()).map_err(fail)? {
            let file_name = entry.map_err(fail)?.file_name();
            let Some(file_name) = file_name.to_str() else { continue };
            if file_name.starts_with(TEMP_RECORD_PREFIX) && !sweep.dry_run {
                self.remove_temp_record(file_name, sweep.idle_for);
            }
            let Some(stem) = file_name.strip_suffix(".lock") else { continue };
            let files = self.files(stem);
            match self.sweep_name(&files, sweep)? {
                None => swept.kept += 1,
                Some(lock) => {
                    swept.removed.push(files.lock);
                    locked.extend(lock);
                }
            }
            if locked.len() >= BATCH {
                wait_and_close(&mut locked, keep_locked);
            }
        }
        wait_and_close(&mut locked, keep_locked);
        Ok(swept)
    }

    /// Ensures one sweep at a time, because a sweep reads and then writes the floor.
    fn lock_sweep(&self) -> Result<File, Error> {
        let path = self.directory().join(SWEEP_LOCK);
        let file = LockFile::open(&path, self.mode(), OFlag::empty())?.into_file();
        match try_flock(&file, FlockArg::LockExclusiveNonblock) {
            Ok(true) => Ok(file),
            Ok(false) => {
                let what =
                    format!("another sweep of {} is running; try again when it has ended", self.directory().display());
                Err(Error::new(ErrorKind::Unavailable, what).with_ambiguous(false))
            }
            Err(e) => Err(error::at("lock", &path, e)),
        }
    }

    /// Removes a name that has no holder and no waiter and that its last holder released.
    ///
    /// The name must never be used again, because the floor of the tokens is not raised.
    pub(crate) fn purge(&self, name: &LockName) -> Result<bool, Error> {
        let files = self.files(&encode::encode(name));
        // The record of a crashed holder stays, so that the next holder learns of the crash.
        let was_released = |record: &Record| Ok(record.state != RecordState::Held);
        Ok(!files.lock.exists() || self.remove(&files, Duration::ZERO, was_released)?.is_some())
    }

    /// Removes a name if it is idle. Returns the lock, which the caller keeps for a while, or
    /// `Some(None)` in a dry run.
    fn sweep_name(&self, files: &Files, sweep: Sweep) -> Result<Option<Option<LockFile>>, Error> {
        if !is_idle(files, sweep.idle_for) {
            return Ok(None);
        }
        if sweep.dry_run {
            return Ok(Some(None));
        }
        let keep_token = |record: &Record| {
            record.token().map_or(Ok(()), |token| floor::raise(self.directory(), token, self.mode()))?;
            Ok(true)
        };
        Ok(self.remove(files, sweep.idle_for, keep_token)?.map(Some))
    }

    /// Removes the files of an idle name under its lock, if its record `may_go`.
    fn remove(
        &self,
        files: &Files,
        idle_for: Duration,
        may_go: impl FnOnce(&Record) -> Result<bool, Error>,
    ) -> Result<Option<LockFile>, Error> {
        let Some(lock) = LockFile::open_existing(&files.lock)? else { return Ok(None) };
        if !lock.try_lock(&files.lock)? {
            return Ok(None);
        }
        let _fresh = self.medium().refresh_directory(self.directory(), self.mode())?;
        if !lock.inode.is_at(&files.lock)? || !is_idle(files, idle_for) || is_queued(&files.queue) {
            return Ok(None);
        }
        let RecordRead::Record(record) = sidecar::read(&files.record)? else { return Ok(None) };
        if record.hold_left(now_us()).is_some() || !may_go(&record)? {
            return Ok(None);
        }
        for path in [&files.record, &files.spare, &files.queue, &files.lock] {
            match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error::at("remove", path, e)),
                _ => {}
            }
        }
        Ok(Some(lock))
    }

    /// Removes the temporary record of an acquisition that ended early, if the record is old
    /// enough.
    fn remove_temp_record(&self, file_name: &str, idle_for: Duration) {
        let path = self.directory().join(file_name);
        let is_temp_record = file_name.len() == TEMP_RECORD_PREFIX.len() + 32;
        if is_temp_record
            && fs::symlink_metadata(&path).is_ok_and(|found| is_older(&found, idle_for.max(DIRECTORY_CACHE)))
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Returns whether onelock used the name, but not within `idle_for`.
fn is_idle(files: &Files, idle_for: Duration) -> bool {
    [&files.record, &files.lock]
        .into_iter()
        .all(|path| fs::symlink_metadata(path).is_ok_and(|found| is_older(&found, idle_for)))
}

fn is_older(found: &Metadata, age: Duration) -> bool {
    found.modified().is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|since| since >= age))
}

/// Returns whether processes wait for the name.
fn is_queued(queue: &Path) -> bool {
    File::open(queue).is_ok_and(|file| !matches!(try_flock(&file, FlockArg::LockSharedNonblock), Ok(true)))
}

/// Sleeps in the thread of the sweep. No operation on a lock waits for this thread.
fn wait_and_close(locked: &mut Vec<LockFile>, keep_locked: Duration) {
    if !locked.is_empty() {
        // Until no NFS client opens a removed file from its cache of the directory. No event
        // reports that.
        thread::sleep(keep_locked);
        locked.clear();
    }
}
