//! Inspects and lists locks without acquiring them.

use std::{fs, io, path::Path};

use lock_core::{
    Error, FencingToken, Holder, LockName,
    backend::{End, Listing, OddEntry, PastHolder},
};

use nix::fcntl::{FlockArg, OFlag};

use crate::{
    clock::now_us,
    dir, encode, error,
    files::Files,
    lockfile::try_flock,
    medium::kernel_locks::KernelLocks,
    names::Names,
    open::{self, Access},
    parts,
    record::RecordState,
    sidecar::{self, RecordRead},
    store::FileStore,
};

impl FileStore {
    pub(crate) fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        self.names().check(name)?;
        let holder = self.look(&self.files_of(name), &KernelLocks::read())?;
        if holder.is_none() {
            dir::must_exist(self.directory())?;
        }
        Ok(holder)
    }

    /// Returns the last holder of a free lock. The record was written last at the release: by the
    /// server's clock on NFS, and otherwise by this machine's.
    pub(crate) fn last_holder(&self, name: &LockName) -> Result<Option<PastHolder>, Error> {
        self.names().check(name)?;
        let files = self.files_of(name);
        let ended_at = fs::symlink_metadata(&files.record).and_then(|found| found.modified()).ok();
        let record = sidecar::read(&files.record, self.medium().open_flags())?;
        let of_parts = record.joined_from().map(|from| self.last_of_parts(&files, from)).transpose()?.flatten();
        // Last, so that a lock that was acquired meanwhile is not called free.
        if self.is_locked(&files.lock, &KernelLocks::read())? {
            return Ok(None);
        }
        Ok(match record {
            RecordRead::Record(record) => match record.state {
                RecordState::Released(_) => {
                    Some(PastHolder::new(record.into_holder(), End::Released).with_ended_at(ended_at))
                }
                RecordState::Held => Some(PastHolder::new(record.into_holder(), End::Crashed)),
                RecordState::Joined => of_parts,
            },
            RecordRead::Absent | RecordRead::Garbage => None,
        })
    }

    /// Returns the last of the holders that have shared the lock, or had its permits.
    fn last_of_parts(&self, files: &Files, from: FencingToken) -> Result<Option<PastHolder>, Error> {
        let ended_at = fs::symlink_metadata(&files.parts).and_then(|found| found.modified()).ok();
        let slots = parts::records(&files.parts, self.medium().open_flags())?.since(Some(from));
        Ok(slots.last().map(|(holder, state)| match state {
            RecordState::Held => PastHolder::new(holder, End::Crashed),
            _ => PastHolder::new(holder, End::Released).with_ended_at(ended_at),
        }))
    }

    /// Lists the held locks whose names begin with `prefix`. A file that cannot be examined is an
    /// odd entry.
    pub(crate) fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let fail = |e: io::Error| error::at("list the directory", self.directory(), e);
        dir::must_exist(self.directory())?;
        let known = KernelLocks::read();
        let mut listing = Listing::default();
        for entry in fs::read_dir(self.directory()).map_err(fail)? {
            let file_name = entry.map_err(fail)?.file_name();
            let Some(file_name) = file_name.to_str() else { continue };
            match self.names() {
                Names::Encoded => self.list_encoded(file_name, prefix, &known, &mut listing)?,
                Names::Plain => self.list_plain(file_name, prefix, &known, &mut listing)?,
            }
        }
        // The record of a long name has the whole name.
        listing.locks.retain(|(name, _)| name.as_str().starts_with(prefix));
        listing.locks.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(listing)
    }

    fn list_encoded(
        &self,
        file_name: &str,
        prefix: &str,
        known: &KernelLocks,
        listing: &mut Listing,
    ) -> Result<(), Error> {
        let Some(stem) = file_name.strip_suffix(".lock") else { return Ok(()) };
        let short_name = encode::decode(stem);
        if !encode::may_begin_with(stem, prefix) || (short_name.is_none() && !encode::has_digest(stem)) {
            return Ok(());
        }
        self.list_one(&self.files(stem), |record| short_name.or_else(|| long_name(record, stem)), known, listing)
    }

    /// Lists a file that onelock has used or that the kernel lists as locked. Other files of the
    /// directory may be anything, and a look at their locks could disturb a program that tries one.
    fn list_plain(
        &self,
        file_name: &str,
        prefix: &str,
        known: &KernelLocks,
        listing: &mut Listing,
    ) -> Result<(), Error> {
        let Ok(name) = LockName::new(file_name) else { return Ok(()) };
        if !file_name.starts_with(prefix) || self.names().check(&name).is_err() {
            return Ok(());
        }
        let files = self.files_of(&name);
        let is_listed = || fs::symlink_metadata(&files.lock).is_ok_and(|found| known.list(&found));
        match files.record.exists() || is_listed() {
            true => self.list_one(&files, |_| Some(name), known, listing),
            false => Ok(()),
        }
    }

    /// Returns whether any process holds the lock file at `path`, which may be a directory if its
    /// name is plain.
    pub(crate) fn is_locked(&self, path: &Path, known: &KernelLocks) -> Result<bool, Error> {
        let may_be_directory = self.names() == Names::Plain && self.medium().keeps_locks();
        if !may_be_directory || !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
            return self.medium().is_locked(path, known);
        }
        let fail = |e: io::Error| error::at("inspect the lock file", path, e);
        let opened = open::existing_or_directory(path, Access::Read, OFlag::empty()).map_err(fail)?;
        if known.list(&opened.found) {
            return Ok(true);
        }
        try_flock(&opened.file, FlockArg::LockSharedNonblock).map(|got_it| !got_it).map_err(|e| fail(e.into()))
    }

    fn list_one(
        &self,
        files: &Files,
        name: impl FnOnce(&RecordRead) -> Option<LockName>,
        known: &KernelLocks,
        listing: &mut Listing,
    ) -> Result<(), Error> {
        let locked = match self.is_locked(&files.lock, known) {
            Ok(locked) => locked,
            Err(error) if error::is_of_one_file(&error) => {
                listing.note_odd(odd(&files.lock, &error));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let record = match sidecar::read(&files.record, self.medium().open_flags()) {
            Err(error) if error::is_of_one_file(&error) => {
                listing.note_odd(odd(&files.record, &error));
                RecordRead::Garbage
            }
            // The record was being replaced, or the file system did not answer.
            record => record.unwrap_or(RecordRead::Garbage),
        };
        match name(&record) {
            Some(name) => {
                let holder = match self.holder(locked, record, files, known) {
                    Err(error) if error::is_of_one_file(&error) => {
                        listing.note_odd(odd(&files.parts, &error));
                        return Ok(());
                    }
                    holder => holder?,
                };
                listing.locks.extend(holder.map(|holder| (name, holder)));
            }
            None if locked => {
                let reason = "it is locked, and its name is unknown, because no record can be read beside it";
                listing.note_odd(OddEntry::new(files.lock.display().to_string(), reason));
            }
            None => {}
        }
        Ok(())
    }

    fn look(&self, files: &Files, known: &KernelLocks) -> Result<Option<Holder>, Error> {
        let locked = self.is_locked(&files.lock, known)?;
        let record = sidecar::peek(&files.record, self.medium().open_flags());
        self.holder(locked, record, files, known)
    }

    /// Returns the holder of a lock, or what stands for several.
    fn holder(
        &self,
        locked: bool,
        record: RecordRead,
        files: &Files,
        known: &KernelLocks,
    ) -> Result<Option<Holder>, Error> {
        if let Some(from) = record.joined_from()
            && let Some(holder) = self.joined_since(files, from)?
        {
            return Ok(Some(holder));
        }
        Ok(self.state(locked, record, files, known))
    }

    /// Returns the holder of a lock, from whether its file is `locked` and from its `record`.
    fn state(&self, locked: bool, record: RecordRead, files: &Files, known: &KernelLocks) -> Option<Holder> {
        let listed = || self.medium().holding_process(&files.lock, known);
        let holder = if locked { Some(record.holder(now_us(), listed)) } else { record.min_holder(now_us()) };
        holder.map(|holder| holder.with_store_time(self.medium().store_time()))
    }
}

/// Returns the long name whose encoding with a digest is `stem`.
fn long_name(record: &RecordRead, stem: &str) -> Option<LockName> {
    let RecordRead::Record(record) = record else { return None };
    LockName::new(&*record.body.name).ok().filter(|name| encode::encode(name) == stem)
}

fn odd(path: &Path, error: &Error) -> OddEntry {
    OddEntry::new(path.display().to_string(), error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lock_core::{
        FencingToken, Holder, LockName,
        backend::{AcquireRequest, LeaseId},
    };

    use super::*;
    use crate::{
        medium::{Medium, local::Local, nfs::Nfs},
        mode::Mode,
        record::{self, Record},
    };

    fn holder_on(medium: &'static dyn Medium) -> Holder {
        let dir = tempfile::tempdir().expect("a new directory");
        let store = FileStore::new(dir.path().to_owned(), Mode::new(None).expect("a valid mode"), medium);
        let name = LockName::new("etl").expect("a valid name");
        let request = AcquireRequest::new(name, LeaseId::random(), "me");
        let token = FencingToken::new(9).expect("a small number");
        // A minute ago, by this machine's clock.
        let bytes = record::held(&request, token, now_us() - 60_000_000, None);
        let record = RecordRead::Record(Record::parse(&bytes).expect("a record"));
        store.state(true, record, &store.files("etl"), &KernelLocks::default()).expect("it is held")
    }

    #[test]
    fn an_age_is_shown_only_where_this_machines_clock_counts() {
        let local = holder_on(&Local { keeps_locks: true });
        assert!(local.held_for.is_some_and(|age| age >= Duration::from_secs(60)), "{local}");
        for shared in [holder_on(&Nfs), holder_on(&Local { keeps_locks: false })] {
            assert!(shared.held_for.is_none() && shared.since.is_some(), "{shared}");
            assert!(shared.to_string().starts_with("me since 20"), "{shared}");
        }
    }
}
