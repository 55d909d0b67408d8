//! Grants fair requests in their turn, and refuses other requests that meet a queue.
//!
//! A request without a place looks for places while it has the lock. A fair request has been
//! refused before it takes its place. So each place that is taken later is behind this request.

use std::{
    fs::{self, Metadata},
    sync::Arc,
};

use lock_core::{
    Error, Holder, LockName, Mode as LockMode,
    backend::{AcquireOutcome, AcquireRequest, LeaseId},
};

use super::FileStore;
use crate::{
    clock::us_of,
    error,
    fair::{self, Place},
    files::Files,
    key::Key,
    lockfile::LockFile,
    medium::refusal::CachedHolder,
    mode::Mode,
    names::Names,
    record::RecordState,
    sidecar::{self, RecordRead},
    wait::slots::IdleDescriptor,
};

impl FileStore {
    /// Returns whether requests can queue here. It needs locks of bytes whose loss is noticed.
    pub(super) fn has_queues(&self) -> bool {
        fair::is_possible() && (self.medium.keeps_locks() || self.medium.is_nfs())
    }

    /// Returns whether requests may wait for the lock whose file this process has just locked and
    /// then `found`.
    ///
    /// On NFS a look costs requests. A request in the queue sets the time of the lock file, and the
    /// server's clock also gives the time of the record. So if the record is newer, nothing waits.
    pub(super) fn may_have_queue(&self, previous: &RecordRead, found: &Metadata) -> bool {
        // Other programs set the time of a file that they name.
        if !self.medium.is_nfs() || self.names == Names::Plain {
            return true;
        }
        match (previous, found.modified()) {
            (RecordRead::Record(record), Ok(shown)) => us_of(shown) >= record.body.since_us,
            _ => true,
        }
    }

    /// Shows the next holders that requests wait; see [`may_have_queue`](Self::may_have_queue).
    fn show_queue(&self, request: &AcquireRequest, files: &Files) -> Result<(), Error> {
        if !self.medium.is_nfs() {
            return Ok(());
        }
        let idle = self.idle(request, files)?;
        let shown = idle.lock.server_us();
        self.slots.keep(&request.name, idle);
        shown.map(drop).map_err(|e| error::at("set the time of", &files.lock, e))
    }

    /// Like [`show_queue`](Self::show_queue), for a request that has the lock and a new record.
    pub(super) fn show_rest_of_queue(&self, request: &AcquireRequest, files: &Files, lock: &LockFile) {
        if self.medium.is_nfs()
            && self.is_before_newcomers(request)
            && let Err(error) = lock.server_us()
        {
            let file = files.lock.display();
            tracing::warn!(%file, %error, "the lock file has an old time; a request may overtake one that waits");
        }
    }

    /// Acquires for a fair request. A refused one that waits has a place in the queue afterwards,
    /// except if the file of the queue is removed at this moment.
    pub(super) fn acquire_in_turn(&self, request: &AcquireRequest, files: &Files) -> Result<AcquireOutcome, Error> {
        let key = (request.id, request.name.clone());
        let mut place = self.places.get(&key);
        // First, because the rest takes several requests to the server.
        if self.medium.is_nfs()
            && let Some(holder) = place.as_ref().map(|place| place.is_still_refused(request.id)).transpose()?.flatten()
        {
            return Ok(AcquireOutcome::Contended(holder));
        }
        if let Some(lost) = &place
            && !lost.is_in_queue(self.medium, &self.last_refresh)?
        {
            self.places.remove(&key);
            place = None;
        }
        if let Some(place) = &place
            && let Some(ahead) = place.ahead()?
        {
            let holder = self.holder_or(ahead.holder, &request.name, files)?;
            place.remember(request.id, ahead.byte, holder.clone());
            return Ok(AcquireOutcome::Contended(holder));
        }
        let outcome = self.attempt(request, files)?;
        match outcome {
            AcquireOutcome::Granted(_) => {
                let had_place = self.places.remove(&key);
                // Others without a place may share the lock now.
                if had_place && request.mode.may_be_joined() {
                    self.medium.wake_watches(&files.lock);
                }
            }
            AcquireOutcome::Contended(_) if request.waits => {
                if place.is_none() {
                    let how = (self.mode_beside(files), self.medium.open_flags());
                    let taken = Place::take(&files.fair, how, request, self.process)?;
                    taken.into_iter().for_each(|place| self.places.insert(key.clone(), place));
                }
                // At each try again, so that an error of the server's clock does not last.
                self.show_queue(request, files)?;
            }
            AcquireOutcome::Contended(_) => {}
        }
        Ok(outcome)
    }

    /// Returns the place of a request, and its queue.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only watches use it"))]
    pub(crate) fn place(&self, id: LeaseId, name: &LockName) -> Option<Arc<Place>> {
        self.places.get(&(id, name.clone()))
    }

    /// Opens the file of the queue for `name`.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only watches use it"))]
    pub(crate) fn open_fair(&self, name: &LockName) -> Result<LockFile, Error> {
        let files = self.files_of(name);
        fair::open(&files.fair, self.mode_beside(&files))
    }

    /// Ends the place of a request that gives up, and wakes those behind it.
    pub(super) fn leave_queue(&self, key: &Key) {
        if self.places.remove(key) {
            self.medium.wake_watches(&self.lock_path(&key.1));
        }
    }

    /// Returns the holder to name if requests in the queue refuse `request`, which has no place and
    /// has just locked the lock file.
    pub(super) fn behind_queue(&self, request: &AcquireRequest, files: &Files) -> Result<Option<Holder>, Error> {
        if !self.has_queues() || self.is_before_newcomers(request) {
            return Ok(None);
        }
        let ahead = fair::ahead_of_newcomers(&files.fair, request.mode, self.medium.open_flags())?;
        let Some(ahead) = ahead else { return Ok(None) };
        Ok(Some(self.present(files)?.unwrap_or(ahead.holder)))
    }

    /// Returns whether `request` has a place, which counts alone, or a mark, which it got before
    /// there was a queue.
    pub(super) fn is_before_newcomers(&self, request: &AcquireRequest) -> bool {
        let key = (request.id, request.name.clone());
        self.places.get(&key).is_some() || self.marks.get(&key).is_some()
    }

    /// Returns the holder to name if requests in the queue still refuse `request`, as at the last
    /// try of this descriptor. Does not lock the lock file, because that could refuse the first of
    /// the queue.
    pub(super) fn still_behind(
        &self,
        request: &AcquireRequest,
        files: &Files,
        cached: Option<&CachedHolder>,
    ) -> Result<Option<Holder>, Error> {
        if !cached.is_some_and(|cached| cached.by_queue) || self.is_before_newcomers(request) {
            return Ok(None);
        }
        let ahead = fair::ahead_of_newcomers(&files.fair, request.mode, self.medium.open_flags())?;
        ahead.map(|ahead| self.holder_or(ahead.holder, &request.name, files)).transpose()
    }

    /// Answers a request that the queue refuses, and that has unlocked the lock file.
    pub(super) fn step_behind(
        &self,
        lock: LockFile,
        request: &AcquireRequest,
        files: &Files,
        holder: Holder,
    ) -> AcquireOutcome {
        let outcome = self.remain_behind(lock, request, holder);
        // The first of the queue may have been refused meanwhile.
        self.medium.wake_watches(&files.lock);
        outcome
    }

    /// Like [`step_behind`](Self::step_behind), for a request that has not locked the lock file.
    pub(super) fn remain_behind(&self, lock: LockFile, request: &AcquireRequest, holder: Holder) -> AcquireOutcome {
        let mut cached = CachedHolder::new(request.id, holder.clone());
        cached.by_queue = true;
        self.slots.keep(&request.name, IdleDescriptor { lock, cached: Some(cached) });
        AcquireOutcome::Contended(holder)
    }

    /// Returns whether `request` may keep newcomers out by a mark. Behind a queue it may not: each
    /// of them would wait for the other.
    pub(super) fn may_mark(&self, request: &AcquireRequest, files: &Files) -> Result<bool, Error> {
        Ok(!(request.fair || self.has_queues() && fair::has_places(&files.fair)?))
    }

    /// Returns how many permits the requests before `request` will take.
    pub(super) fn permits_ahead(&self, request: &AcquireRequest, files: &Files) -> Result<usize, Error> {
        if !matches!(request.mode, LockMode::Permit { .. }) {
            return Ok(0);
        }
        match self.places.get(&(request.id, request.name.clone())) {
            Some(place) => place.permits_ahead(),
            None if self.has_queues() => fair::waiting_for_permits(&files.fair),
            None => Ok(0),
        }
    }

    /// Returns the present holder as the record names it, or `waiting` if it names none. The record
    /// of a holder that has ended names none either.
    fn holder_or(&self, waiting: Holder, name: &LockName, files: &Files) -> Result<Holder, Error> {
        let record = match sidecar::peek(&files.record, self.medium.open_flags()) {
            RecordRead::Record(record) if record.state == RecordState::Held => record,
            read => {
                let parts = read.joined_from().map(|from| self.joined_since(files, from)).transpose()?.flatten();
                return Ok(parts.unwrap_or(waiting));
            }
        };
        let is_here = |id: LeaseId| self.table.with(&(id, name.clone()), |_| ()).is_some();
        let has_ended = match record.body.process {
            process if process == self.process => !record.body.id.parse().is_ok_and(is_here),
            process => process.is_some_and(|process| process.has_ended()),
        };
        let holder = record.into_holder().with_store_time(self.medium.store_time());
        Ok(if has_ended { waiting } else { holder })
    }

    /// Returns the permissions of a file beside the lock file, as its other files have them.
    pub(super) fn mode_beside(&self, files: &Files) -> Mode {
        match fs::metadata(&files.lock) {
            Ok(found) if self.names == Names::Plain => {
                Mode { file: self.mode.sharing_of_plain(&found).file, ..self.mode }
            }
            _ => self.mode,
        }
    }
}
