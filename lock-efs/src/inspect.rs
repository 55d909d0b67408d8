//! Inspects and lists locks without acquiring them.

use std::{fs, io, path::Path};

use lock_core::{
    Error, Holder, LockName,
    backend::{Listing, OddEntry},
};

use crate::{
    clock::now_us,
    dir, encode, error,
    files::Files,
    medium::kernel_locks::KernelLocks,
    sidecar::{self, RecordRead},
    store::FileStore,
};

impl FileStore {
    pub(crate) fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        let holder = self.look(&self.files(&encode::encode(name)), &KernelLocks::read())?;
        if holder.is_none() {
            dir::must_exist(self.directory())?;
        }
        Ok(holder)
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
            let Some(stem) = file_name.to_str().and_then(|n| n.strip_suffix(".lock")) else { continue };
            if encode::may_begin_with(stem, prefix) {
                self.list_one(stem, &known, &mut listing)?;
            }
        }
        // The record of a long name has the whole name.
        listing.locks.retain(|(name, _)| name.as_str().starts_with(prefix));
        listing.locks.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(listing)
    }

    fn list_one(&self, stem: &str, known: &KernelLocks, listing: &mut Listing) -> Result<(), Error> {
        let files = self.files(stem);
        let short_name = encode::decode(stem);
        if short_name.is_none() && !encode::has_digest(stem) {
            // The name of no lock.
            return Ok(());
        }
        let locked = match self.medium().is_locked(&files.lock, known) {
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
        match short_name.or_else(|| long_name(&record, stem)) {
            Some(name) => {
                let holder = match self.holder(locked, record, &files, known) {
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
        let locked = self.medium().is_locked(&files.lock, known)?;
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
