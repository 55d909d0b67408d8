//! Decides whether a refused try is repeated, and which holder the waiter is told.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use lock_core::{Error, FencingToken, Holder, Mode, backend::LeaseId};

use crate::{clock::now_us, lockfile::LockFile, process::LockingProcess, sidecar::RecordRead};

/// How often a refused lock is tried again while no record names the holder; once if a record does.
///
/// Without these retries, inspections in a loop made 8 % of the attempts on a free lock fail. The
/// remaining failures come from an inspecting process that is descheduled while it holds the shared
/// lock.
pub(crate) const SECOND_TRIES: usize = 3;

/// An attempt to acquire a lock whose file is open.
pub(crate) struct LockAttempt<'a> {
    pub(crate) id: LeaseId,
    pub(crate) lock: &'a LockFile,
    /// Whether the lock is shared.
    pub(crate) shared: bool,
    pub(crate) path: &'a Path,
    /// Reads the record.
    pub(crate) peek: &'a dyn Fn() -> RecordRead,
    /// Returns the process that the kernel lists as the holder.
    pub(crate) listed: &'a dyn Fn() -> Option<LockingProcess>,
}

impl LockAttempt<'_> {
    /// Tries to lock the file once, and returns whether that succeeded.
    pub(crate) fn succeeds(&self) -> Result<bool, Error> {
        if self.shared { self.lock.try_lock_shared(self.path) } else { self.lock.try_lock(self.path) }
    }

    /// Tries again after a refusal. `record` was read after that refusal.
    ///
    /// The lock may be taken for microseconds only: by an inspection, or by a contender that has
    /// not written its record yet or found a minimum hold. A refusal for that reason would make a
    /// caller skip its job.
    pub(crate) fn try_again(&self, mut record: RecordRead) -> Result<Option<CachedHolder>, Error> {
        for _ in 0..SECOND_TRIES {
            if self.succeeds()? {
                return Ok(None);
            }
            if self.is_explained_by(&record) {
                break;
            }
            record = (self.peek)();
        }
        Ok(Some(self.refused(record)))
    }

    /// Returns whether `record` explains why the lock was refused. Holders of a shared lock do not
    /// refuse another one.
    pub(super) fn is_explained_by(&self, record: &RecordRead) -> bool {
        record.explains_a_refusal(now_us()) && !(self.shared && record.joined_from().is_some())
    }

    /// Returns the refusal with the holder that `record` names.
    ///
    /// The kernel's list is read only if that holder crashed. Between two holders the record names
    /// none for a moment, and with 200 waiting processes the list costs more than all their work.
    pub(crate) fn refused(&self, record: RecordRead) -> CachedHolder {
        let (names_a_holder, joined) = (record.names_a_holder(), record.joined_from());
        let holder = record.holder(now_us(), || names_a_holder.then(self.listed).flatten());
        let holder = if self.shared { holder.with_mode(Mode::Exclusive) } else { holder };
        CachedHolder { joined, ..CachedHolder::new(self.id, holder) }
    }
}

/// The holder that a refusal named.
#[derive(Debug, Clone)]
pub(crate) struct CachedHolder {
    id: LeaseId,
    pub(crate) holder: Holder,
    /// The record said that the lock has several holders, from this token on.
    pub(crate) joined: Option<FencingToken>,
    /// The holder stands for the holders of the parts.
    pub(crate) has_parts: bool,
    /// Requests in the queue of the name refused this one.
    pub(crate) by_queue: bool,
    at: Instant,
}

impl CachedHolder {
    pub(crate) fn new(id: LeaseId, holder: Holder) -> Self {
        Self { id, holder, joined: None, has_parts: false, by_queue: false, at: Instant::now() }
    }

    /// Returns whether the cached holder may be reported to the waiter `id` again. Reading the
    /// record costs three NFS requests, and no decision depends on the holder.
    pub(crate) fn is_fresh_for(&self, id: LeaseId) -> bool {
        const FRESH: Duration = Duration::from_secs(15);
        self.id == id && self.holder.expires_in.is_none() && self.at.elapsed() < FRESH
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mode, process::LockingProcess};

    #[test]
    fn a_refusal_between_two_holders_does_not_read_the_kernels_list() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("etl.lock");
        let mode = mode::Mode { file: 0o600, directory: 0o700, exact: false };
        let lock = LockFile::open(&path, mode, nix::fcntl::OFlag::empty()).expect("a fresh file opens");
        let listed = || -> Option<LockingProcess> { panic!("the list is slow while many processes wait") };
        let peek = || RecordRead::Absent;
        let attempt =
            LockAttempt { id: LeaseId::from(7), lock: &lock, shared: false, path: &path, peek: &peek, listed: &listed };
        let holder = attempt.refused(RecordRead::Absent).holder;
        assert_eq!(holder.foreign.as_deref(), Some("a flock(2) holder without a record"));
    }

    #[test]
    fn a_fresh_holder_is_repeated_to_the_same_waiter_only() {
        let (mine, theirs) = (LeaseId::from(1), LeaseId::from(2));
        let cached = CachedHolder::new(mine, Holder::default());
        assert!(cached.is_fresh_for(mine) && !cached.is_fresh_for(theirs));
        let passes = Holder::default().with_expires_in(Duration::from_secs(5));
        assert!(!CachedHolder::new(mine, passes).is_fresh_for(mine), "the rest of a minimum hold changes");
        if let Some(at) = Instant::now().checked_sub(Duration::from_secs(16)) {
            assert!(!CachedHolder { at, ..cached }.is_fresh_for(mine), "another client may hold the lock by now");
        }
    }
}
