//! The queue of the fair requests for one name.
//!
//! `NAME.fair` has a locked byte for each request that waits for its turn. The byte stands for the
//! mode of the request and for its ticket, a number that rises with each place. The kernel frees
//! the byte with its process. So a place needs no time limit, and a queue without places has
//! forgotten its numbers.
//!
//! The content decides nothing. It names the waiting requests: after a page with the first word of
//! the files of onelock, the record of ticket n is in page n modulo [`RECORDS`].
//!
//! Two requests that come at the same moment may get the same ticket, in different modes. Then none
//! is before the other, and both try.

pub(crate) mod places;

use std::{
    fs::{self, File},
    io,
    num::NonZeroU16,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use lock_core::{
    Error, FencingToken, Holder, Mode as LockMode,
    backend::{AcquireRequest, LeaseId},
};
use nix::{errno::Errno, fcntl::OFlag, libc};

use crate::{
    byte_locks,
    clock::now_us,
    error,
    lockfile::LockFile,
    medium::{Medium, Probe, fresh::LastRefresh, refusal::CachedHolder},
    mode::Mode,
    open::{self, Access},
    process::RecordedProcess,
    record::{self, Record},
    sync,
};

/// How many bytes each mode has, one for each ticket.
const REGION: u64 = 1 << 60;
const REGIONS: Range<u64> = SHARED..PERMITS + 1;
/// In an order in which the regions that a request cannot share the lock with are neighbours. So
/// one question is enough where nothing waits.
const SHARED: u64 = 1;
const EXCLUSIVE: u64 = 2;
const PERMITS: u64 = 3;
/// The space of one record.
const PLACE_BYTES: usize = 1024;
/// How many records the file has. More waiting requests overwrite those of others, which then wait
/// without a name.
const RECORDS: u64 = 256;
const HEAD: &str = "onelock/1 fair\n";
/// How often one attempt starts over because the file is being removed, or another request took the
/// same ticket.
const TRIES: usize = 16;

/// Returns whether this system can lock bytes with numbers of 62 bits for an open file.
pub(crate) const fn is_possible() -> bool {
    cfg!(target_os = "linux") && size_of::<libc::off_t>() == 8
}

/// A place in a queue, of a request of this process.
#[derive(Debug)]
pub(crate) struct Place {
    file: LockFile,
    path: PathBuf,
    region: u64,
    ticket: u64,
    /// The answer of the last refusal by a request before this one.
    refusal: Mutex<Option<(u64, CachedHolder)>>,
    /// No request was before this one, and none will be: tickets rise while there are places.
    is_first: AtomicBool,
}

/// A waiting request that keeps another request waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// The byte of its place, by which it is recognised.
    pub(crate) byte: u64,
    pub(crate) holder: Holder,
}

/// A queue that no request can join until this is dropped.
#[derive(Debug)]
#[must_use = "the queue is closed until this is dropped"]
pub(crate) struct Closed(#[expect(dead_code, reason = "has the locks")] Option<LockFile>);

impl Place {
    /// Takes the last place of the queue whose file is at `path`, with the `flags` of its medium.
    /// `None` if the file is removed meanwhile, or many other requests take places.
    pub(crate) fn take(
        path: &Path,
        (mode, flags): (Mode, OFlag),
        request: &AcquireRequest,
        process: Option<RecordedProcess>,
    ) -> Result<Option<Self>, Error> {
        let region = region_of(request.mode);
        for _ in 0..TRIES {
            let (file, is_new) = LockFile::open_ours(path, mode, flags)?;
            let ticket = last_ticket(file.file()).map_err(|e| error::at("inspect", path, e))? + 1;
            // The last ticket is locked by a sweep that removes the file.
            let is_taken = ticket < REGION - 1
                && file.try_lock_byte(byte_of(region, ticket)).map_err(|e| error::at("lock a byte of", path, e))?;
            if is_taken && file.inode.is_at(path)? {
                let place = Self {
                    file,
                    path: path.to_owned(),
                    region,
                    ticket,
                    refusal: Mutex::default(),
                    is_first: AtomicBool::default(),
                };
                place.note(request, process, is_new);
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Writes the record of the request. A reader that finds another one does not name the request.
    fn note(&self, request: &AcquireRequest, process: Option<RecordedProcess>, is_new: bool) {
        let Some(ticket) = FencingToken::new(self.ticket) else { return };
        let mut page = record::held(&request.clone().with_data(None), ticket, now_us(), process);
        if page.len() > PLACE_BYTES {
            return;
        }
        page.resize(PLACE_BYTES, b' ');
        let file = self.file.file();
        let head = if is_new { file.write_all_at(HEAD.as_bytes(), 0) } else { Ok(()) };
        if let Err(error) = head.and_then(|()| file.write_all_at(&page, page_of(self.ticket))) {
            tracing::debug!(file = %self.path.display(), %error, "others cannot see which request waits");
        }
    }

    /// Returns whether newcomers see the place. They do not if the file was removed or replaced, or
    /// if the NFS server has dropped the lock of the byte.
    pub(crate) fn is_in_queue(&self, medium: &dyn Medium, last: &LastRefresh) -> Result<bool, Error> {
        Ok(medium.check(&self.file, &self.path, last)? == Probe::StillHeld)
    }

    /// Remembers `holder` as the answer while the request at `byte` waits.
    pub(crate) fn remember(&self, id: LeaseId, byte: u64, holder: Holder) {
        *sync::lock(&self.refusal) = Some((byte, CachedHolder::new(id, holder)));
    }

    /// Returns the answer of the last refusal, if that was not long ago and the request that caused
    /// it still waits. One question to the kernel, or to an NFS server.
    pub(crate) fn is_still_refused(&self, id: LeaseId) -> Result<Option<Holder>, Error> {
        let refusal = sync::lock(&self.refusal).clone().filter(|(_, cached)| cached.is_fresh_for(id));
        let Some((byte, cached)) = refusal else { return Ok(None) };
        let waits = byte_locks::conflict(self.file.file(), &(byte..byte + 1));
        let waits = waits.map_err(|e| error::at("inspect", &self.path, e))?.is_some();
        Ok(waits.then_some(cached.holder))
    }

    /// Returns a request before this one that it cannot share the lock with.
    pub(crate) fn ahead(&self) -> Result<Option<Ahead>, Error> {
        if self.is_first.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let ahead = first_before(self.file.file(), self.region, self.ticket);
        let ahead = ahead.map_err(|e| error::at("inspect", &self.path, e))?;
        self.is_first.store(ahead.is_none(), Ordering::Relaxed);
        Ok(ahead)
    }

    /// Returns how many requests for permits are before this one.
    pub(crate) fn permits_ahead(&self) -> Result<usize, Error> {
        permits_before(self.file.file(), self.ticket).map_err(|e| error::at("inspect", &self.path, e))
    }

    /// Leaves the queue, even while a child between fork and exec has the file open.
    pub(crate) fn leave(&self) {
        if let Err(error) = self.file.unlock_byte(byte_of(self.region, self.ticket)) {
            tracing::debug!(file = %self.path.display(), %error, "cannot leave the queue; closing the file does");
        }
    }
}

/// Returns a request in the queue at `path` that a newcomer of `mode` cannot share the lock with.
pub(crate) fn ahead_of_newcomers(path: &Path, mode: LockMode, flags: OFlag) -> Result<Option<Ahead>, Error> {
    look(path, flags, |file| first_before(file, region_of(mode), REGION))
}

/// Returns how many requests for permits wait in the queue at `path`.
pub(crate) fn waiting_for_permits(path: &Path) -> Result<usize, Error> {
    look(path, OFlag::empty(), |file| permits_before(file, REGION))
}

/// Returns whether any request waits in the queue at `path`.
pub(crate) fn has_places(path: &Path) -> Result<bool, Error> {
    let all = byte_of(REGIONS.start, 0)..byte_of(REGIONS.end, 0);
    look(path, OFlag::empty(), |file| byte_locks::conflict(file, &all)).map(|found| found.is_some())
}

/// Opens the file of a queue, for the order in which its requests are woken.
pub(crate) fn open(path: &Path, mode: Mode) -> Result<LockFile, Error> {
    LockFile::open_ours(path, mode, OFlag::empty()).map(|(file, _)| file)
}

/// Keeps requests out of the queue at `path`, whose file the caller removes. `None` if one waits.
pub(crate) fn close(path: &Path) -> Result<Option<Closed>, Error> {
    let file = if is_possible() { LockFile::open_existing(path)? } else { None };
    let Some(file) = file else { return Ok(Some(Closed(None))) };
    let all = byte_of(REGIONS.start, 0)..byte_of(REGIONS.end, 0);
    let is_empty = byte_locks::try_lock_all(file.file(), &all).map_err(|e| error::at("lock", path, e))?;
    Ok(is_empty.then_some(Closed(Some(file))))
}

/// Looks into the queue at `path`. The default if there is no file.
fn look<T: Default>(path: &Path, flags: OFlag, find: impl FnOnce(&File) -> Result<T, Errno>) -> Result<T, Error> {
    // Most names have no queue, and this is the cheapest call that says so.
    match fs::symlink_metadata(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(T::default()),
        _ => {}
    }
    match open::existing(path, Access::Read, flags) {
        Ok(opened) => find(&opened.file).map_err(|e| error::at("inspect", path, e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(e) => Err(error::at("inspect", path, e)),
    }
}

/// Returns the number of the region for requests of `mode`.
fn region_of(mode: LockMode) -> u64 {
    match mode {
        LockMode::Shared => SHARED,
        LockMode::Permit { .. } => PERMITS,
        _ => EXCLUSIVE,
    }
}

fn byte_of(region: u64, ticket: u64) -> u64 {
    region * REGION + ticket
}

fn page_of(ticket: u64) -> u64 {
    (1 + ticket % RECORDS) * PLACE_BYTES as u64
}

/// Returns the largest ticket of all places. Asks for places beyond one that is known, in growing
/// steps, because the kernel tells one place of a range, in no particular order.
fn last_ticket(file: &File) -> Result<u64, Errno> {
    let mut last = 0;
    for region in REGIONS {
        let mut step = 1;
        loop {
            let beyond = byte_of(region, last + step)..byte_of(region + 1, 0);
            let found = if beyond.is_empty() { None } else { byte_locks::conflict(file, &beyond)? };
            match found {
                Some(locked) => (last, step) = (locked.end - 1 - byte_of(region, 0), step * 2),
                None if step == 1 => break,
                None => step = 1,
            }
        }
    }
    Ok(last)
}

/// Returns the first place before `ticket` that a request of `region` cannot share the lock with.
fn first_before(file: &File, region: u64, ticket: u64) -> Result<Option<Ahead>, Errno> {
    // Readers share the lock with readers, and permits with permits.
    let others = match region {
        SHARED => EXCLUSIVE..PERMITS + 1,
        PERMITS => SHARED..EXCLUSIVE + 1,
        _ => REGIONS,
    };
    if byte_locks::conflict(file, &(byte_of(others.start, 0)..byte_of(others.end, 0)))?.is_none() {
        return Ok(None);
    }
    let mut first: Option<(u64, u64)> = None;
    for other in others {
        let before = byte_locks::conflict(file, &(byte_of(other, 0)..byte_of(other, ticket)))?;
        let found = before.map(|locked| (locked.start - byte_of(other, 0), other));
        first = first.into_iter().chain(found).min();
    }
    Ok(first.map(|(ticket, region)| Ahead { byte: byte_of(region, ticket), holder: holder(file, region, ticket) }))
}

fn permits_before(file: &File, ticket: u64) -> Result<usize, Errno> {
    byte_locks::conflicts(file, byte_of(PERMITS, 0)..byte_of(PERMITS, ticket)).map(|found| found.len())
}

/// Returns the waiting request as a refusal by a free lock names it.
fn holder(file: &File, region: u64, ticket: u64) -> Holder {
    let mut page = [0; PLACE_BYTES];
    let record = file.read_exact_at(&mut page, page_of(ticket)).ok().and_then(|()| Record::parse_part(&page).ok());
    let record = record.filter(|record| record.token().is_some_and(|token| token.get() == ticket));
    let mode = match region {
        EXCLUSIVE => LockMode::Exclusive,
        SHARED => LockMode::Shared,
        _ => record.as_ref().map_or(LockMode::Permit { of: NonZeroU16::MIN }, Record::mode),
    };
    match record.map(|record| record.body.owner).filter(|owner| !owner.is_empty()) {
        Some(owner) => Holder::default().with_owner(owner),
        None => Holder::default().with_foreign("a request that waits".to_owned()),
    }
    .with_mode(mode)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use lock_core::LockName;

    use super::*;
    use crate::medium::local::Local;

    const MODE: Mode = Mode { file: 0o600, directory: 0o700, exact: false };

    fn request(mode: LockMode) -> AcquireRequest {
        let name = LockName::new("etl").expect("a valid name");
        AcquireRequest::new(name, LeaseId::random(), "me").with_mode(mode)
    }

    fn take(path: &Path, mode: LockMode) -> Place {
        let taken = Place::take(path, (MODE, OFlag::empty()), &request(mode), None).expect("nothing is in the way");
        taken.expect("the file stays")
    }

    fn permit() -> LockMode {
        LockMode::Permit { of: NonZeroU16::new(7).expect("not zero") }
    }

    /// The holder that a place names ahead of it.
    fn ahead(place: &Place) -> Option<LockMode> {
        place.ahead().expect("the file can be inspected").map(|ahead| ahead.holder.mode)
    }

    #[test]
    fn a_place_is_the_last_of_all_modes() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("a.fair");
        let mut places = Vec::new();
        for ticket in 1..=40 {
            let mode = [LockMode::Exclusive, LockMode::Shared, permit()][ticket % 3];
            places.push(take(&path, mode));
            assert_eq!(places[ticket - 1].ticket, ticket as u64);
        }
        // In any order, and with gaps of any width.
        for gone in [3, 30, 17, 4, 20, 5, 0, 1] {
            places.remove(gone).leave();
            assert_eq!(take(&path, LockMode::Shared).ticket, 41);
        }
        drop(places);
        assert_eq!(take(&path, permit()).ticket, 1, "a queue without places has forgotten its numbers");
    }

    #[test]
    fn each_mode_waits_for_the_places_that_it_cannot_share_with() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("a.fair");
        let (reader, other) = (take(&path, LockMode::Shared), take(&path, LockMode::Shared));
        assert_eq!((ahead(&reader), ahead(&other)), (None, None));
        let (writer, permits) = (take(&path, LockMode::Exclusive), [(); 2].map(|()| take(&path, permit())));
        let last = take(&path, LockMode::Exclusive);
        assert_eq!(ahead(&writer), Some(LockMode::Shared));
        assert_eq!(permits.each_ref().map(ahead), [Some(LockMode::Shared); 2]);
        reader.leave();
        other.leave();
        assert_eq!((ahead(&writer), ahead(&last)), (None, Some(LockMode::Exclusive)));
        writer.leave();
        assert_eq!(permits.each_ref().map(ahead), [None; 2]);
        assert_eq!(permits.each_ref().map(|place| place.permits_ahead().ok()), [Some(0), Some(1)]);
        assert_eq!((ahead(&last), waiting_for_permits(&path).ok()), (Some(permit()), Some(2)));
        let newcomer = ahead_of_newcomers(&path, permit(), OFlag::empty()).expect("the file can be inspected");
        assert_eq!(newcomer.and_then(|ahead| ahead.holder.owner).as_deref(), Some("me"));
    }

    #[test]
    fn a_closed_queue_has_no_places_and_is_joined_in_its_next_file() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("a.fair");
        let place = take(&path, LockMode::Shared);
        assert!(has_places(&path).is_ok_and(|has| has) && close(&path).is_ok_and(|closed| closed.is_none()));
        place.leave();
        let closed = close(&path).expect("the file can be locked").expect("there is no place");
        let refused = Place::take(&path, (MODE, OFlag::empty()), &request(LockMode::Shared), None);
        assert!(refused.expect("nothing is in the way").is_none());
        fs::remove_file(&path).expect("the file exists");
        let next = take(&path, LockMode::Shared);
        assert!(next.is_in_queue(&Local { keeps_locks: true }, &LastRefresh::never()).is_ok_and(|is| is));
        drop(closed);
    }
}
