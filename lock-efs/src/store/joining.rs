//! Acquires a part of a lock that may have several holders: a shared lock, or one of its permits.

use std::sync::Arc;

use lock_core::{
    Error, ErrorKind, FencingToken, Holder, Mode as LockMode,
    backend::{AcquireOutcome, AcquireRequest, Grant, Lease},
};

use super::{FileStore, TRIES, unrecorded};
use crate::{
    clock::now_us,
    error,
    files::Files,
    floor,
    held::HeldLock,
    key::Key,
    lockfile::LockFile,
    medium::{
        BegunRecord, NewRecord,
        kernel_locks::KernelLocks,
        refusal::{CachedHolder, LockAttempt},
    },
    parts::{self, Gate, MOST, PART_BYTES, Part, PartsFile, free::FreePart, slots::Slots},
    record::{self, RecordState},
    sidecar::{self, RecordRead},
    table::AcquiredLock,
    wait::slots::IdleDescriptor,
};

/// The result of one try.
enum Joined {
    Granted {
        /// The part. `None` if a full disk has no room for its record.
        number: Option<usize>,
        token: FencingToken,
        crashed: Option<Holder>,
        skew_us: i64,
    },
    /// Other holders, or a waiting request, refuse it.
    Refused {
        holder: Holder,
        /// Holders of another mode do, so that the request may keep newcomers out.
        by_other_mode: bool,
    },
    /// The lock file is locked exclusively.
    Locked(CachedHolder),
    /// Requests in the queue refuse it.
    Behind(Holder),
    /// A file was replaced, or a part was released meanwhile.
    StartOver,
}

/// The state of the name, read in the gate.
struct Present {
    previous: RecordRead,
    /// All records of parts.
    slots: Slots,
    now_us: u64,
    skew_us: i64,
}

impl FileStore {
    pub(super) fn join(&self, request: &AcquireRequest, files: &Files) -> Result<AcquireOutcome, Error> {
        if let LockMode::Permit { of } = request.mode
            && usize::from(of.get()) > MOST
        {
            let what = format!("a lock on files has at most {MOST} permits, and the request states {of}; use fewer");
            return Err(Error::new(ErrorKind::Limit, what).with_ambiguous(false));
        }
        for _ in 0..TRIES {
            let IdleDescriptor { lock, cached } = self.idle(request, files)?;
            if let Some(holder) = self.still_behind(request, files, cached.as_ref())? {
                return Ok(self.remain_behind(lock, request, holder));
            }
            let parts = match PartsFile::open(&files.parts, lock.mode_beside(self.mode), self.medium.open_flags()) {
                Err(error) if self.allows_no_part(request, &error) => {
                    match self.join_without_part(request, files, (lock, cached), error)? {
                        Some(outcome) => return Ok(outcome),
                        None => continue,
                    }
                }
                opened => opened?,
            };
            let key = (request.id, request.name.clone());
            let Some(gate) = parts.enter(self.medium.gate_wait().of(request))? else {
                let holder = self.present(files)?.unwrap_or_else(|| {
                    Holder::default().with_foreign("a process that is taking a part".to_owned()).with_mode(request.mode)
                });
                self.slots.keep(&request.name, IdleDescriptor { lock, cached });
                return Ok(AcquireOutcome::Contended(holder));
            };
            match self.join_in_gate(request, files, (&lock, cached), &gate)? {
                Joined::Granted { number, token, crashed, skew_us } => {
                    drop(gate);
                    let part = number.map(|number| {
                        let of_part = HeldLock::new(&self.labels, parts.file.inode.device, self.medium.many_locks());
                        Part { file: Arc::new(parts), number, _held: of_part }
                    });
                    return Ok(self.joined(key, lock, part, (token, skew_us), crashed));
                }
                Joined::Refused { holder, by_other_mode } => {
                    if !(request.waits && by_other_mode) {
                        self.marks.remove(&key);
                    } else if !self.is_marked(&key)? && self.may_mark(request, files)? && gate.mark(request.mode)? {
                        drop(gate);
                        self.marks.insert(key, parts);
                    }
                    let cached = Some(CachedHolder::new(request.id, holder.clone()));
                    self.slots.keep(&request.name, IdleDescriptor { lock, cached });
                    return Ok(AcquireOutcome::Contended(holder));
                }
                Joined::Locked(refusal) => {
                    self.marks.remove(&key);
                    let holder = refusal.holder.clone().with_store_time(self.medium.store_time());
                    self.slots.keep(&request.name, IdleDescriptor { lock, cached: Some(refusal) });
                    return Ok(AcquireOutcome::Contended(holder));
                }
                Joined::Behind(holder) => {
                    drop(gate);
                    return Ok(self.step_behind(lock, request, files, holder));
                }
                Joined::StartOver => {}
            }
        }
        Err(error::replaced_in_a_loop(&files.lock))
    }

    /// Keeps the lock file that this process shares, and its part.
    pub(super) fn joined(
        &self,
        key: Key,
        lock: LockFile,
        part: Option<Part>,
        (token, skew_us): (FencingToken, i64),
        crashed: Option<Holder>,
    ) -> AcquireOutcome {
        self.marks.remove(&key);
        let _held = HeldLock::new(&self.labels, lock.inode.device, self.medium.many_locks());
        let lock = Arc::new(lock);
        self.table.insert(key, AcquiredLock { lock, record: None, token, lent: false, skew_us, part, _held });
        AcquireOutcome::Granted(Grant::default().with_token(token).with_crashed(crashed))
    }

    /// Takes a part. Without one, the lock file is unlocked again.
    fn join_in_gate(
        &self,
        request: &AcquireRequest,
        files: &Files,
        (lock, cached): (&LockFile, Option<CachedHolder>),
        gate: &Gate<'_>,
    ) -> Result<Joined, Error> {
        if gate.parts().keeps_out(request.mode)? {
            let waiter = || Holder::default().with_foreign("a request that waits".to_owned());
            let holder = match cached.filter(|cached| self.medium.is_nfs() && cached.is_fresh_for(request.id)) {
                // To count the holders takes a request for each.
                Some(cached) => cached.holder,
                None => self.present(files)?.unwrap_or_else(waiter),
            };
            return Ok(Joined::Refused { holder, by_other_mode: false });
        }
        if let Some(refusal) = self.try_share(request, files, lock, cached)? {
            return Ok(if lock.inode.is_at(&files.lock)? { Joined::Locked(refusal) } else { Joined::StartOver });
        }
        let joined = self.join_locked(request, files, lock, gate);
        if !matches!(joined, Ok(Joined::Granted { .. })) {
            let _ = lock.unlock(&files.lock);
        }
        joined
    }

    /// Shares the lock file, or returns why not.
    pub(super) fn try_share(
        &self,
        request: &AcquireRequest,
        files: &Files,
        lock: &LockFile,
        cached: Option<CachedHolder>,
    ) -> Result<Option<CachedHolder>, Error> {
        let peek = || sidecar::peek(&files.record, self.medium.open_flags());
        let listed = || self.medium.holding_process(&files.lock, &KernelLocks::read());
        let attempt =
            LockAttempt { id: request.id, lock, shared: true, path: &files.lock, peek: &peek, listed: &listed };
        self.medium.try_lock(&attempt, cached)
    }

    /// Takes a part while this process shares the lock file, which no other mode of flock(2) can
    /// have meanwhile, and is in the gate.
    fn join_locked(
        &self,
        request: &AcquireRequest,
        files: &Files,
        lock: &LockFile,
        gate: &Gate<'_>,
    ) -> Result<Joined, Error> {
        let parts = gate.parts();
        self.medium.refresh_directory(&self.directory)?;
        if !lock.inode.is_at(&files.lock)? || !parts.file.inode.is_at(&files.parts)? {
            tracing::debug!(file = %files.lock.display(), "the lock file was replaced; starting over");
            return Ok(Joined::StartOver);
        }
        if let Some(holder) = self.behind_queue(request, files)? {
            return Ok(Joined::Behind(holder));
        }
        let here_us = now_us();
        let server_us = self.medium.server_us(lock).map_err(|e| error::at("set the time of", &files.lock, e))?;
        let now_us = server_us.unwrap_or(here_us);
        let previous = sidecar::read(&files.record, self.medium.open_flags())?;
        let present =
            Present { slots: parts.read()?, now_us, skew_us: now_us.wrapping_sub(here_us).cast_signed(), previous };
        if let RecordRead::Record(record) = &present.previous
            && record.hold_left(now_us).is_some()
        {
            let holder = RecordRead::Record(record.clone()).holder(now_us, || None);
            let holder = holder.with_store_time(self.medium.store_time());
            return Ok(Joined::Refused { holder, by_other_mode: false });
        }
        self.take_part(request, files, lock, parts, present)
    }

    fn take_part(
        &self,
        request: &AcquireRequest,
        files: &Files,
        lock: &LockFile,
        parts: &PartsFile,
        present: Present,
    ) -> Result<Joined, Error> {
        let Present { previous, slots, now_us, skew_us } = present;
        let last = match &previous {
            RecordRead::Record(record) => record.token(),
            _ => floor::read(&self.directory, self.medium.open_flags())?,
        };
        let last = last.max(slots.last_token());
        let mut crashed = Vec::new();
        let (slots, begins_at) = match slots.clone().since(previous.joined_from()) {
            current if current.are_all(request.mode) => (current, None),
            current => {
                // Whatever the records say: on NFS a host that was cut off may have replaced one of
                // them late.
                let held = parts::held(parts.file.file()).map_err(|e| error::at("inspect", &files.parts, e))?;
                let holder = self.several(&slots, &held, now_us).or_else(|| self.several(&current, &[], now_us));
                match holder {
                    None => {
                        crashed = current.crashed();
                        // They may have been released since the records were read.
                        if !crashed.is_empty() && parts.read()? != slots {
                            return Ok(Joined::StartOver);
                        }
                        crashed.extend(crashed_before(&previous));
                        (Slots::default(), Some(next(last, now_us, 0, files)?))
                    }
                    // The record was removed or replaced while its holders are there. The mode of
                    // a part without a record is not known.
                    Some(holder) if holder.mode == request.mode && held.iter().all(|&n| slots.get(n).is_some()) => {
                        let first = slots.first_of(&held).or(last).map_or(1, |token| token.get().max(2) - 1);
                        let from = FencingToken::new(first);
                        (slots.since(from), from)
                    }
                    Some(holder) => return refused_by(holder, request),
                }
            }
        };
        if matches!(request.mode, LockMode::Permit { .. })
            && let Some(answer) = self.refused_without_part(lock, files, parts, slots.any_present(now_us))?
        {
            return Ok(answer);
        }
        let token = next(last.max(begins_at), now_us, 0, files)?;
        let bytes = self.record_of_part(request, token, now_us)?;
        let number = match parts.lock_free(&slots, request.mode, self.permits_ahead(request, files)?, now_us)? {
            FreePart::Locked(number) => number,
            FreePart::None { held } => {
                let holder = self.several(&slots, &held, now_us).unwrap_or_default().with_mode(request.mode);
                return Ok(Joined::Refused { holder, by_other_mode: false });
            }
            FreePart::Changed => return Ok(Joined::StartOver),
        };
        let begin = || begins_at.map_or(Ok(()), |from| self.begin_joined(request, files, lock, (&previous, from)));
        let number = self.record_part(request, parts, (number, &bytes), begin, (token.get() <= now_us + 1, now_us))?;
        let is_begun = number.is_some() || begins_at.is_none();
        crashed.extend(number.and_then(|number| slots.crashed_in(number)));
        // Without the record, each next holder would be told of the crash.
        let crashed = Holder::of_several(crashed).filter(|_| is_begun);
        if let Some(holder) = &crashed {
            tracing::debug!(name = %request.name, %holder, "a previous holder ended without releasing the lock");
        }
        Ok(Joined::Granted { number, token, crashed, skew_us })
    }

    /// Returns the answer to a permit if a shared lock that has no part may exclude it. The records
    /// of crashed holders say that they are `present`, so the locks of the parts decide.
    fn refused_without_part(
        &self,
        lock: &LockFile,
        files: &Files,
        parts: &PartsFile,
        present: bool,
    ) -> Result<Option<Joined>, Error> {
        if present && parts.any_held()? {
            return Ok(None);
        }
        Ok(match self.medium.is_alone(lock, &files.lock)? {
            Some(true) => None,
            None => Some(Joined::StartOver),
            Some(false) => {
                let holder = Holder::default().with_foreign("a flock(2) holder without a record".to_owned());
                Some(Joined::Refused { holder: holder.with_mode(LockMode::Shared), by_other_mode: true })
            }
        })
    }

    fn record_of_part(&self, request: &AcquireRequest, token: FencingToken, now_us: u64) -> Result<Vec<u8>, Error> {
        let bytes = record::held(request, token, now_us, self.process);
        if bytes.len() <= PART_BYTES {
            return Ok(bytes);
        }
        let (size, limit) = (bytes.len(), PART_BYTES);
        let what = format!("the record of a part has {size} bytes, and the limit is {limit}; attach less data");
        Err(Error::new(ErrorKind::Limit, what).with_ambiguous(false))
    }

    /// Replaces the record: from now on, the holders are in the file of the parts.
    fn begin_joined(
        &self,
        request: &AcquireRequest,
        files: &Files,
        lock: &LockFile,
        (previous, from): (&RecordRead, FencingToken),
    ) -> Result<(), Error> {
        let bytes = record::joined(&request.name, from);
        let replaces = matches!(previous, RecordRead::Record(_));
        let sharing = lock.sharing(self.mode);
        let new = NewRecord { directory: &self.directory, files, bytes: &bytes, replaces, sharing };
        self.medium.place_record(&new, BegunRecord::Nothing).map(drop)
    }

    /// Writes a larger token into the record of a part that this process holds.
    pub(super) fn advance_part(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        let key = (lease.id, lease.name.clone());
        let part = |held: &mut AcquiredLock| held.part.as_ref().map(|part| (Arc::clone(&part.file), part.number));
        let Some(part) = self.table.with(&key, part) else { return Ok(false) };
        let Some((parts, number)) = part else { return Err(unrecorded::has_no_record()) };
        // A newcomer reads all tokens in the gate.
        let Some(_gate) = parts.enter(self.medium.gate_wait().of_holder())? else {
            let what = "another process is taking a part of this lock and does not end; end it, or try again";
            return Err(Error::new(ErrorKind::Unavailable, what).with_ambiguous(false));
        };
        let slots = parts.read()?;
        let Some(record) = slots.get(number).filter(|record| record.body.id == lease.id.to_string()) else {
            let what = format!(
                "the record of a part in {} was replaced while the part was held; find the program that changes \
                 records",
                parts.path.display()
            );
            return Err(Error::new(ErrorKind::Corrupt, what).with_ambiguous(false));
        };
        if record.token() >= Some(token) {
            return Ok(true);
        }
        parts.write(number, &record::raised(record.clone(), token))?;
        Ok(self.table.with(&key, |held| held.token = token).is_some())
    }
}

/// Returns the answer to a request that the holders of parts refuse.
fn refused_by(holder: Holder, request: &AcquireRequest) -> Result<Joined, Error> {
    request.require_same_permits(holder.mode)?;
    // The core releases a mark only after a refusal by another mode.
    let by_other_mode = holder.mode != request.mode;
    Ok(Joined::Refused { holder, by_other_mode })
}

/// Returns the exclusive holder before, if it crashed.
fn crashed_before(previous: &RecordRead) -> Option<Holder> {
    match previous {
        RecordRead::Record(record) if record.state == RecordState::Held => Some(record.clone().into_holder()),
        _ => None,
    }
}

/// Returns the token after `last`, or the last of those if `reserved` more are.
pub(super) fn next(
    last: Option<FencingToken>,
    now_us: u64,
    reserved: u32,
    files: &Files,
) -> Result<FencingToken, Error> {
    FencingToken::next_after(last, now_us, reserved).ok_or_else(|| {
        let what = format!(
            "the record {} holds the largest possible fencing token; remove the record to start again from the clock",
            files.record.display()
        );
        Error::new(ErrorKind::Corrupt, what)
    })
}
