//! All that happens on the file system: blocking, without a runtime.

use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lock_core::{
    Error, ErrorKind, FencingToken, Holder, LockName, LossReason,
    backend::{AcquireOutcome, AcquireRequest, Grant, Lease, Release, Renewal},
};

use crate::{
    clock::now_us,
    encode, error,
    files::Files,
    floor,
    key::Key,
    lockfile::LockFile,
    medium::{
        nfs::{self, Probe},
        temp_record::TempRecord,
    },
    mode::Mode,
    record::{self, RecordState},
    sidecar::{self, RecordRead},
    table::{AcquiredLock, GaugeLabels, HeldGauge, LockTable},
    wait::slots::{CachedHolder, DescriptorSlot, DescriptorSlots, IdleDescriptor},
};

/// How often one attempt starts over because the lock file was replaced under it.
const TRIES: usize = 16;
/// How often a refused lock is tried again while no record says who holds it; once if one does. Without, an inspection in a loop
/// spoilt 8 % of the attempts on a free lock; what is left is the inspector that loses its processor in the midst.
const SECOND_TRIES: usize = 3;

/// How many locks of one process are worth a warning on NFS, before EFS refuses the 257th.
const MANY_ON_EFS: usize = 200;

#[derive(Debug)]
pub(crate) struct FileStore {
    directory: PathBuf,
    mode: Mode,
    nfs: bool,
    table: LockTable,
    slots: Arc<DescriptorSlots>,
    labels: GaugeLabels,
}

/// What became of a lock that this process has for the moment.
enum RecordOutcome {
    Granted { record: File, token: FencingToken, crashed: Option<Holder>, skew_us: i64 },
    MinHold(Holder),
}

impl FileStore {
    pub(crate) fn new(directory: PathBuf, mode: Mode, nfs: bool) -> Self {
        let labels = GaugeLabels::of(&directory);
        Self { directory, mode, nfs, table: LockTable::default(), slots: Arc::default(), labels }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn lock_path(&self, name: &LockName) -> PathBuf {
        self.directory.join(encode::encode(name) + ".lock")
    }

    /// The file whose lock is the first place in the queue of waiting processes.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only watches queue"))]
    pub(crate) fn queue_path(&self, name: &LockName) -> PathBuf {
        self.directory.join(encode::encode(name) + ".queue")
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) fn is_nfs(&self) -> bool {
        self.nfs
    }

    pub(crate) fn files(&self, stem: &str) -> Files {
        Files::new(&self.directory, stem)
    }

    pub(crate) fn acquire(&self, claim: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        if claim.ttl.is_some() {
            return Err(Error::new(
                ErrorKind::Config,
                "a file lock has no ttl, it lasts until it is released or its process ends; remove the option ttl",
            ));
        }
        let files = self.files(&encode::encode(&claim.name));
        if let Some(grant) = self.held_already(&(claim.id, claim.name.clone()), &files)? {
            return Ok(AcquireOutcome::Granted(grant));
        }
        for _ in 0..TRIES {
            let IdleDescriptor { lock, cached } = match self.slots.take_idle(&claim.name) {
                Some(idle) => idle,
                None => IdleDescriptor { lock: LockFile::open(&files.lock, self.mode, self.nfs)?, cached: None },
            };
            let cached = cached.filter(|cached| self.nfs && cached.is_fresh_for(claim.id));
            let refused = try_lock(&lock, &files.lock, self.nfs, cached.as_ref(), || sidecar::peek(&files.record))?;
            // Before the path is looked at: it makes NFS look it up anew.
            let temp = match (&refused, self.nfs) {
                (None, true) => Some(TempRecord::create(&self.directory, claim.id, self.mode)?),
                _ => None,
            };
            if !lock.inode.is_at(&files.lock)? {
                tracing::debug!(file = %files.lock.display(), "the lock file was replaced; starting over");
                continue;
            }
            let Some(holder) = refused else { return self.settle(lock, claim, &files, temp) };
            let cached = cached.unwrap_or_else(|| CachedHolder::new(claim.id, holder.clone()));
            self.slots.keep(&claim.name, IdleDescriptor { lock, cached: Some(cached) });
            return Ok(AcquireOutcome::Contended(holder));
        }
        let what = format!(
            "the lock file {} is being replaced again and again; find out who removes lock files and stop it",
            files.lock.display()
        );
        Err(Error::new(ErrorKind::Unavailable, what).with_ambiguous(false))
    }

    fn held_already(&self, key: &Key, files: &Files) -> Result<Option<Grant>, Error> {
        let Some((lock, token)) = self.table.with(key, |held| (Arc::clone(&held.lock), held.token)) else {
            return Ok(None);
        };
        if self.check(&lock, &files.lock)? == Probe::StillHeld {
            return Ok(Some(Grant { token: Some(token), crashed: None, already_ours: true }));
        }
        self.give_up(key, &files.lock);
        Ok(None)
    }

    /// Whether a lock that is held here still excludes others.
    fn check(&self, lock: &LockFile, path: &Path) -> Result<Probe, Error> {
        if self.nfs {
            return nfs::probe(lock, path);
        }
        Ok(match lock.inode.is_at(path)? {
            true => Probe::StillHeld,
            false => {
                Probe::Lost(format!("the lock file {} was removed or replaced while the lock was held", path.display()))
            }
        })
    }

    /// Lets go of a lock that was lost. At once: on NFS a lost lock that stays open keeps out the other processes of this host.
    fn give_up(&self, key: &Key, path: &Path) {
        if let Some(held) = self.table.remove(key) {
            let _ = held.lock.unlock(path);
        }
    }

    fn settle(
        &self,
        lock: LockFile,
        claim: &AcquireRequest,
        files: &Files,
        temp: Option<TempRecord>,
    ) -> Result<AcquireOutcome, Error> {
        match self.record_holder(claim, files, temp) {
            Ok(RecordOutcome::Granted { record, token, crashed, skew_us }) => {
                let _gauge = HeldGauge::new(&self.labels);
                let acquired = AcquiredLock { lock: Arc::new(lock), record, token, lent: false, skew_us, _gauge };
                let held = self.table.insert((claim.id, claim.name.clone()), acquired);
                if self.nfs && held == MANY_ON_EFS {
                    tracing::warn!(held, "many locks are held; EFS gives a process 256 locked files in one mount");
                }
                Ok(AcquireOutcome::Granted(Grant { token: Some(token), crashed, already_ours: false }))
            }
            Ok(RecordOutcome::MinHold(holder)) => {
                lock.unlock(&files.lock)?;
                self.slots.keep(&claim.name, IdleDescriptor { lock, cached: None });
                Ok(AcquireOutcome::Contended(holder))
            }
            Err(error) => {
                // Not left to the close alone, which a child that is about to exec would delay.
                let _ = lock.unlock(&files.lock);
                Err(error)
            }
        }
    }

    fn record_holder(
        &self,
        claim: &AcquireRequest,
        files: &Files,
        temp: Option<TempRecord>,
    ) -> Result<RecordOutcome, Error> {
        let here_us = now_us();
        let now_us = temp.as_ref().map_or(Ok(here_us), TempRecord::server_us)?;
        let previous = match sidecar::read(&files.record)? {
            RecordRead::Record(record) if record.hold_left(now_us).is_some() => {
                return Ok(RecordOutcome::MinHold(RecordRead::Record(record).holder(now_us)));
            }
            RecordRead::Record(record) => Some(record),
            RecordRead::Absent => None,
            RecordRead::Garbage => {
                tracing::warn!(
                    file = %files.record.display(),
                    "the lock record is not one; it is replaced, and the next fencing token comes from the clock alone"
                );
                None
            }
        };
        let before = match &previous {
            Some(record) => record.token(),
            None => floor::read(&self.directory)?,
        };
        let token = FencingToken::next(before, now_us).ok_or_else(|| {
            let what = format!("the record {} has the last possible token; remove it", files.record.display());
            Error::new(ErrorKind::Corrupt, what)
        })?;
        let bytes = record::held(claim, token, now_us);
        if bytes.len() > record::MAX_BYTES {
            let what = format!("a lock record has at most {} bytes, this one {}", record::MAX_BYTES, bytes.len());
            return Err(Error::new(ErrorKind::Limit, what + "; attach less data"));
        }
        let file = match temp {
            Some(temp) => temp.place(&bytes, &files.record)?,
            None => sidecar::replace(&files.record, &files.spare, &bytes, previous.is_some(), self.mode)?,
        };
        let crashed = previous.filter(|r| r.state == RecordState::Held).map(record::Record::into_holder);
        if let Some(holder) = &crashed {
            tracing::debug!(name = %claim.name, %holder, "the previous holder ended without releasing");
        }
        Ok(RecordOutcome::Granted { record: file, token, crashed, skew_us: now_us.wrapping_sub(here_us).cast_signed() })
    }

    pub(crate) fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        let key = (lease.id, lease.name.clone());
        let Some(lock) = self.table.with(&key, |held| Arc::clone(&held.lock)) else {
            return Ok(Renewal::Lost(LossReason::RecordGone));
        };
        let path = self.lock_path(&lease.name);
        match self.check(&lock, &path)? {
            Probe::StillHeld => Ok(Renewal::Renewed),
            Probe::Lost(why) => {
                self.give_up(&key, &path);
                Ok(Renewal::Lost(LossReason::FileLock(why)))
            }
        }
    }

    /// Writes a larger token into the record of a lock that is held here.
    pub(crate) fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        if self.renew(lease)? != Renewal::Renewed {
            return Ok(false);
        }
        let files = self.files(&encode::encode(&lease.name));
        let RecordRead::Record(record) = sidecar::read(&files.record)? else {
            let what = format!("the record {} of a lock that is held was removed or replaced", files.record.display());
            return Err(Error::new(ErrorKind::Corrupt, what).with_ambiguous(false));
        };
        if record.token() >= Some(token) {
            return Ok(true);
        }
        let bytes = record::raised(record, token);
        let file = match self.nfs {
            true => TempRecord::create(&self.directory, lease.id, self.mode)?.place(&bytes, &files.record)?,
            false => sidecar::replace(&files.record, &files.spare, &bytes, true, self.mode)?,
        };
        let raise = |held: &mut AcquiredLock| (held.record, held.token) = (file, token);
        Ok(self.table.with(&(lease.id, lease.name.clone()), raise).is_some())
    }

    /// Lets go of a lock that the core has ended. The record goes on saying "held": its holder did not come to release it.
    pub(crate) fn on_lost(&self, lease: &Lease) {
        let Some(held) = self.table.remove(&(lease.id, lease.name.clone())) else { return };
        // A supervisor that shares the lock keeps it until the work has stopped; closing ours takes nothing from it.
        if !held.lent {
            let _ = held.lock.unlock(&self.lock_path(&lease.name));
        }
    }

    pub(crate) fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        let Some(held) = self.table.remove(&(lease.id, lease.name.clone())) else {
            return Ok(Release::NotHeld(self.inspect(&lease.name).unwrap_or(None)));
        };
        let path = self.lock_path(&lease.name);
        if matches!(self.check(&held.lock, &path), Ok(Probe::Lost(_))) {
            let _ = held.lock.unlock(&path);
            drop(held);
            return Ok(Release::NotHeld(self.inspect(&lease.name).unwrap_or(None)));
        }
        let mut marked = sidecar::mark_released(&held.record, now_us().saturating_add_signed(held.skew_us), hold_for);
        if self.nfs {
            // Or the next holder might see it before it reaches the server, and think that this one crashed.
            marked = marked.and_then(|()| held.record.sync_data());
        }
        // Unlocked before it is closed: the close is what wakes waiters.
        held.lock.unlock(&path)?;
        if held.lent && !self.nfs {
            drop(File::open(&path));
        }
        match marked {
            Err(e) if !hold_for.is_zero() => Err(error::at("record the minimum hold of the released lock", &path, e)),
            Err(error) => {
                tracing::warn!(name = %lease.name, %error, "the lock was released, but its record says that it crashed");
                Ok(Release::Released)
            }
            Ok(()) => Ok(Release::Released),
        }
    }

    pub(crate) fn descriptor(&self, lease: &Lease) -> Option<OwnedFd> {
        let lend = |held: &mut AcquiredLock| {
            held.lent = true;
            held.lock.duplicate()
        };
        let lent = self.table.with(&(lease.id, lease.name.clone()), lend)?;
        lent.inspect_err(|error| tracing::warn!(name = %lease.name, %error, "cannot duplicate the lock's descriptor"))
            .ok()
    }

    /// Opens the lock file for a watch, and keeps it open for its tries.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only inotify watches"))]
    pub(crate) fn descriptor_slot(&self, name: &LockName) -> Result<DescriptorSlot, Error> {
        let idle = match self.slots.take_refused(name) {
            Some(idle) => idle,
            None => IdleDescriptor { lock: LockFile::open(&self.lock_path(name), self.mode, self.nfs)?, cached: None },
        };
        Ok(DescriptorSlot::take(&self.slots, name, idle))
    }
}

/// Tries for the lock; `Some` is who has it, as this waiter was `cached` a moment ago, or else as `peek` at the record says.
fn try_lock(
    lock: &LockFile,
    path: &Path,
    nfs: bool,
    cached: Option<&CachedHolder>,
    peek: impl Fn() -> RecordRead,
) -> Result<Option<Holder>, Error> {
    if lock.try_lock(path)? {
        return Ok(None);
    }
    if let Some(cached) = cached {
        return Ok(Some(cached.holder.clone()));
    }
    let mut seen = peek();
    // On NFS inspections take no lock, and a try is a request to the server.
    if nfs && seen.explains_a_refusal(now_us()) {
        return Ok(Some(seen.holder(now_us())));
    }
    // It may have been taken for microseconds only: by an inspection, or by a contender that is about to write its record or
    // found a minimum hold. Refusing for that would make somebody skip a job.
    for _ in 0..SECOND_TRIES {
        if lock.try_lock(path)? {
            return Ok(None);
        }
        if seen.explains_a_refusal(now_us()) {
            break;
        }
        seen = peek();
    }
    Ok(Some(seen.holder(now_us())))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use nix::fcntl::FlockArg;

    use super::*;
    use crate::lockfile::{flock, try_flock};

    #[test]
    fn a_lock_that_was_taken_for_a_moment_only_is_not_refused() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("etl.lock");
        let mode = Mode { file: 0o600, directory: 0o700, exact: false };
        let lock = LockFile::open(&path, mode, false).expect("a fresh file opens");
        for peeks_until_free in 0..=SECOND_TRIES + 1 {
            let inspector = File::open(&path).expect("the lock file is there");
            assert_eq!(try_flock(&inspector, FlockArg::LockSharedNonblock), Ok(true));
            let peeks = Cell::new(0);
            let peek = || {
                peeks.set(peeks.get() + 1);
                if peeks.get() == peeks_until_free {
                    flock(&inspector, FlockArg::Unlock).expect("unlocking cannot fail");
                }
                RecordRead::Absent
            };
            let refused = try_lock(&lock, &path, false, None, peek).expect("no error");
            assert_eq!(refused.is_none(), (1..=SECOND_TRIES).contains(&peeks_until_free), "{peeks_until_free}");
            lock.unlock(&path).expect("unlocking cannot fail");
        }
    }
}
