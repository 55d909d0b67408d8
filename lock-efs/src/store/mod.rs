//! Acquires, renews and releases locks on the file system. Blocking, without a runtime.

mod descriptors;
mod joining;
mod marking;
mod present;
mod queueing;
mod recording;
mod unrecorded;

use std::{
    fs::{File, Metadata},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lock_core::{
    Error, ErrorKind, FencingToken, Holder, LockName, LossReason,
    backend::{AcquireOutcome, AcquireRequest, Grant, Lease, Release, Renewal},
};

use crate::{
    clock::now_us,
    dir, error,
    fair::places::Places,
    files::{self, Files},
    held::{HeldLabels, HeldLock},
    key::Key,
    lockfile::LockFile,
    medium::{
        BegunRecord, Medium, NewRecord, Probe,
        fresh::LastRefresh,
        kernel_locks::KernelLocks,
        refusal::{LockAttempt, SECOND_TRIES},
    },
    mode::Mode,
    names::Names,
    open::Access,
    parts::{PartsFile, marks::Marks},
    process::RecordedProcess,
    record,
    sidecar::{self, RecordRead},
    table::{AcquiredLock, LockTable},
    wait::slots::{DescriptorSlots, IdleDescriptor},
};

/// How often one attempt starts over because the lock file was replaced meanwhile.
///
/// This happens when a sweep, or a program that deletes its lock files, removes the file between
/// open and check. So many removals in a row mean that a program removes the file in a loop. An
/// error can say so; an endless attempt would hide it.
const TRIES: usize = 16;
#[derive(Debug)]
pub(crate) struct FileStore {
    directory: PathBuf,
    names: Names,
    mode: Mode,
    medium: &'static dyn Medium,
    table: LockTable,
    slots: Arc<DescriptorSlots>,
    marks: Marks,
    places: Places,
    labels: HeldLabels,
    last_refresh: LastRefresh,
    /// The process that opened the store. No other process uses it.
    process: Option<RecordedProcess>,
    /// The directory was missing when it was opened, and the first lock is to create it. A
    /// directory that disappears later is an error.
    pub(crate) may_create: AtomicBool,
}

/// The result of recording the holder, while this process has the lock.
enum RecordOutcome {
    Granted {
        record: Option<File>,
        token: FencingToken,
        /// The token in the record before.
        previous_token: Option<FencingToken>,
        crashed: Option<Holder>,
        skew_us: i64,
    },
    MinHold(Holder),
    /// Requests in the queue refuse it.
    Behind(Holder),
}

impl FileStore {
    pub(crate) fn new(directory: PathBuf, mode: Mode, medium: &'static dyn Medium) -> Self {
        let names = Names::default();
        let labels = HeldLabels::new(names.describe(&directory), files::existing(&directory));
        Self {
            directory,
            names,
            mode,
            medium,
            table: LockTable::default(),
            slots: Arc::default(),
            marks: Marks::default(),
            places: Places::default(),
            labels,
            last_refresh: LastRefresh::never(),
            process: RecordedProcess::current(),
            may_create: AtomicBool::new(false),
        }
    }

    /// Sets whether the directory is missing and the first lock is to create it.
    pub(crate) fn with_missing_directory(mut self, is_missing: bool) -> Self {
        *self.may_create.get_mut() = is_missing;
        self
    }

    /// Sets how names become files.
    pub(crate) fn with_names(self, names: Names) -> Self {
        let labels = self.labels.with_store(names.describe(&self.directory));
        Self { names, labels, ..self }
    }

    pub(crate) fn names(&self) -> Names {
        self.names
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn lock_path(&self, name: &LockName) -> PathBuf {
        self.files_of(name).lock
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) fn medium(&self) -> &'static dyn Medium {
        self.medium
    }

    /// Returns the files of the lock `name`.
    pub(crate) fn files_of(&self, name: &LockName) -> Files {
        self.names.files(&self.directory, name)
    }

    pub(crate) fn files(&self, stem: &str) -> Files {
        Files::new(&self.directory, stem)
    }

    pub(crate) fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        self.names.check(&request.name)?;
        let files = self.files_of(&request.name);
        let key = (request.id, request.name.clone());
        if let Some(grant) = self.held_already(&key, &files)? {
            return Ok(AcquireOutcome::Granted(grant));
        }
        let has_waited = self.is_before_newcomers(request);
        let outcome = if request.fair && self.has_queues() {
            self.acquire_in_turn(request, &files)
        } else {
            self.attempt(request, &files)
        };
        self.leave_nothing(&key, has_waited, outcome)
    }

    fn attempt(&self, request: &AcquireRequest, files: &Files) -> Result<AcquireOutcome, Error> {
        if request.mode.may_be_joined() {
            return self.join(request, files);
        }
        let mut unexplained = 0;
        for _ in 0..TRIES {
            let IdleDescriptor { lock, cached } = self.idle(request, files)?;
            if let Some(holder) = self.still_behind(request, files, cached.as_ref())? {
                return Ok(self.remain_behind(lock, request, holder));
            }
            let peek = || sidecar::peek(&files.record, self.medium.open_flags());
            let listed = || self.medium.holding_process(&files.lock, &KernelLocks::read());
            let attempt = LockAttempt {
                id: request.id,
                lock: &lock,
                shared: false,
                path: &files.lock,
                peek: &peek,
                listed: &listed,
            };
            let refusal = self.medium.try_lock(&attempt, cached)?;
            // Before the path is compared: on NFS this makes the host look the path up again.
            let begun = match refusal {
                None => self.medium.begin_record(&lock, &self.directory, lock.sharing(self.mode))?,
                Some(_) => BegunRecord::Nothing,
            };
            let Some(found) = lock.inode.found_at(&files.lock)? else {
                tracing::debug!(file = %files.lock.display(), "the lock file was replaced; starting over");
                continue;
            };
            let Some(mut refusal) = refusal else { return self.settle((lock, &found), request, files, begun) };
            self.refused_by_parts(request, files, &mut refusal)?;
            // A process that took no part may have shared the lock for a moment.
            if refusal.joined.is_some() && !refusal.has_parts && unexplained < SECOND_TRIES {
                unexplained += 1;
                self.slots.keep(&request.name, IdleDescriptor { lock, cached: None });
                continue;
            }
            let holder = refusal.holder.clone().with_store_time(self.medium.store_time());
            self.slots.keep(&request.name, IdleDescriptor { lock, cached: Some(refusal) });
            return Ok(AcquireOutcome::Contended(holder));
        }
        Err(error::replaced_in_a_loop(&files.lock))
    }

    /// Returns a descriptor of the lock file for one try.
    fn idle(&self, request: &AcquireRequest, files: &Files) -> Result<IdleDescriptor, Error> {
        match self.slots.take_idle(&request.name) {
            Some(idle) => Ok(idle),
            None => Ok(IdleDescriptor { lock: self.open(&files.lock)?, cached: None }),
        }
    }

    /// Checks a lock that this process holds, and its part if it has one.
    fn check(&self, lock: &LockFile, path: &Path, part: Option<&PartsFile>) -> Result<Probe, Error> {
        let probe = self.medium.check(lock, path, &self.last_refresh)?;
        match part.filter(|_| probe == Probe::StillHeld) {
            Some(part) => self.medium.check(&part.file, &part.path, &self.last_refresh),
            None => Ok(probe),
        }
    }

    fn held_already(&self, key: &Key, files: &Files) -> Result<Option<Grant>, Error> {
        let held = self.table.with(key, |held| (Arc::clone(&held.lock), held.part_file(), held.token));
        let Some((lock, part, token)) = held else { return Ok(None) };
        if self.check(&lock, &files.lock, part.as_deref())? == Probe::StillHeld {
            return Ok(Some(Grant::default().with_token(token).with_already_ours(true)));
        }
        self.give_up(key, &files.lock);
        Ok(None)
    }

    fn open(&self, path: &Path) -> Result<LockFile, Error> {
        if self.may_create.load(Ordering::Acquire) {
            dir::create(&self.directory, self.mode, self.medium.is_nfs())?;
            self.may_create.store(false, Ordering::Release);
        }
        let flags = self.medium.open_flags();
        match self.names {
            Names::Encoded => LockFile::open(path, self.mode, flags),
            Names::Plain => {
                // Only a local file system locks a file that is open for reading.
                let access = if self.medium.keeps_locks() { Access::Read } else { Access::ReadWrite };
                LockFile::open_plain(path, self.mode, access, flags)
            }
        }
    }

    /// Unlocks and closes a lost lock at once: on NFS, a lost lock that stays open excludes the
    /// other processes of this host.
    fn give_up(&self, key: &Key, path: &Path) {
        if let Some(held) = self.table.remove(key) {
            let _ = held.unlock(path);
        }
    }

    fn settle(
        &self,
        (lock, found): (LockFile, &Metadata),
        request: &AcquireRequest,
        files: &Files,
        begun: BegunRecord,
    ) -> Result<AcquireOutcome, Error> {
        match self.record_holder(request, files, (&lock, found), begun) {
            Ok(RecordOutcome::Granted { record, token, previous_token, crashed, skew_us }) => {
                self.show_rest_of_queue(request, files, &lock);
                let _held = HeldLock::new(&self.labels, lock.inode.device, self.medium.many_locks());
                let (lock, part) = (Arc::new(lock), None);
                let acquired = AcquiredLock { lock, record, token, lent: false, skew_us, part, _held };
                let key = (request.id, request.name.clone());
                self.marks.remove(&key);
                self.table.insert(key, acquired);
                let grant = Grant::default().with_token(token).with_crashed(crashed);
                Ok(AcquireOutcome::Granted(grant.with_previous_token(previous_token)))
            }
            Ok(RecordOutcome::Behind(holder)) => {
                lock.unlock(&files.lock)?;
                Ok(self.step_behind(lock, request, files, holder))
            }
            Ok(RecordOutcome::MinHold(holder)) => {
                lock.unlock(&files.lock)?;
                self.slots.keep(&request.name, IdleDescriptor { lock, cached: None });
                Ok(AcquireOutcome::Contended(holder))
            }
            Err(error) => {
                // Unlocked explicitly, because a child between fork and exec would delay the effect
                // of the close.
                let _ = lock.unlock(&files.lock);
                Err(error)
            }
        }
    }

    pub(crate) fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        let key = (lease.id, lease.name.clone());
        let held = self.table.with(&key, |held| (Arc::clone(&held.lock), held.part_file()));
        let Some((lock, part)) = held else { return Ok(Renewal::Lost(LossReason::RecordGone)) };
        let path = self.lock_path(&lease.name);
        match self.check(&lock, &path, part.as_deref())? {
            Probe::StillHeld => Ok(Renewal::Renewed),
            Probe::Lost(why) => {
                self.give_up(&key, &path);
                Ok(Renewal::Lost(LossReason::FileLock(why)))
            }
        }
    }

    /// Writes a larger token into the record of a lock that this process holds.
    pub(crate) fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        if self.renew(lease)? != Renewal::Renewed {
            return Ok(false);
        }
        if lease.mode.may_be_joined() {
            return self.advance_part(lease, token);
        }
        let key = (lease.id, lease.name.clone());
        let files = self.files_of(&lease.name);
        if self.table.with(&key, |held| held.record.is_none()) == Some(true) {
            return Err(unrecorded::has_no_record());
        }
        let RecordRead::Record(record) = sidecar::read(&files.record, self.medium.open_flags())? else {
            let what = format!(
                "the record {} was removed or replaced while its lock was held; find the program that changes records",
                files.record.display()
            );
            return Err(Error::new(ErrorKind::Corrupt, what).with_ambiguous(false));
        };
        if record.token() >= Some(token) {
            return Ok(true);
        }
        let Some(sharing) = self.table.with(&key, |held| held.lock.sharing(self.mode)) else { return Ok(false) };
        let bytes = record::raised(record, token);
        let new = NewRecord { directory: &self.directory, files: &files, bytes: &bytes, replaces: true, sharing };
        let file = self.medium.place_record(&new, BegunRecord::Nothing)?;
        let raise = |held: &mut AcquiredLock| (held.record, held.token) = (Some(file), token);
        Ok(self.table.with(&key, raise).is_some())
    }

    /// Frees a lock whose guard the core has ended. The record still says "held", because the
    /// holder did not release the lock.
    pub(crate) fn on_lost(&self, lease: &Lease) {
        let Some(held) = self.table.remove(&(lease.id, lease.name.clone())) else { return };
        // A supervisor with a duplicate of the descriptor keeps the lock until the work has
        // stopped. Closing this descriptor does not affect it.
        if !held.lent {
            let _ = held.unlock(&self.lock_path(&lease.name));
        }
    }

    pub(crate) fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        let key = (lease.id, lease.name.clone());
        self.marks.remove(&key);
        self.leave_queue(&key);
        let Some(held) = self.table.remove(&key) else {
            return Ok(Release::NotHeld(self.inspect(&lease.name).unwrap_or(None)));
        };
        let path = self.lock_path(&lease.name);
        if matches!(self.check(&held.lock, &path, held.part_file().as_deref()), Ok(Probe::Lost(_))) {
            let _ = held.unlock(&path);
            drop(held);
            return Ok(Release::NotHeld(self.inspect(&lease.name).unwrap_or(None)));
        }
        let released_us = now_us().saturating_add_signed(held.skew_us);
        let marked = match (&held.part, &held.record) {
            (Some(part), _) => part.file.mark_released(part.number, released_us, hold_for),
            (None, Some(record)) => self
                .medium
                .mark_released(record, released_us, hold_for)
                .and_then(|()| if hold_for.is_zero() { Ok(()) } else { self.keep_record(lease, &held, record) }),
            (None, None) if hold_for.is_zero() => Ok(()),
            (None, None) => Err(io::Error::other("the lock has no record, because it could not be written")),
        };
        // Unlocked before it is closed, because the close wakes waiters.
        held.unlock(&path)?;
        if held.lent {
            self.medium.wake_watches(&path);
        }
        match marked {
            Err(e) if !hold_for.is_zero() => Err(error::at("record the minimum hold of the released lock", &path, e)),
            Err(error) => {
                tracing::warn!(name = %lease.name, %error, "lock released, but its record still says held; the next \
                    holder will report a crash");
                Ok(Release::Released)
            }
            Ok(()) => Ok(Release::Released),
        }
    }
}
