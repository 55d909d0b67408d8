//! Removes what the last holder of an idle name left.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use lock_core::Error;
use nix::fcntl::OFlag;

use crate::{
    error,
    files::Files,
    open::{self, Access},
    record,
};

/// Removes all files of a name whose lock this process holds and cannot lose.
///
/// # Errors
/// If another program's file is among them. Then none is removed.
pub(crate) fn remove_files(files: &Files) -> Result<(), Error> {
    let is_ours = |path: &Path, recognise: fn(&[u8]) -> bool| {
        let start = match open::existing(path, Access::Read, OFlag::empty()) {
            Ok(opened) => open::read_start(&opened.file, record::MAGIC.len()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => Err(e),
        };
        let start = start.map_err(|e| error::at("inspect", path, e))?;
        if recognise(&start) { Ok(()) } else { Err(error::stranger(path)) }
    };
    is_ours(&files.spare, record::is_ours)?;
    is_ours(&files.queue, <[u8]>::is_empty)?;
    is_ours(&files.parts, record::is_ours)?;
    is_ours(&files.fair, record::is_ours)?;
    for path in [&files.record, &files.spare, &files.queue, &files.parts, &files.fair, &files.lock] {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error::at("remove", path, e)),
            _ => {}
        }
    }
    Ok(())
}

/// Empties the open `record` of a name whose lock this process holds but may lose at any moment.
///
/// The network may deliver this request after the next holder acquired the lock. A removal by
/// path would then hit that holder's files. This request hits only the record that was opened,
/// because the next holder's record is a new file.
pub(crate) fn empty_record(files: &Files, record: &File) -> Result<(), Error> {
    let emptied = record.set_len(0).and_then(|()| record.sync_data());
    emptied.map_err(|e| error::at("empty the record", &files.record, e))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt, time::Duration};

    use lock_core::{
        LockName,
        backend::{AcquireOutcome, AcquireRequest, LeaseId},
    };

    use super::*;
    use crate::{
        FileBackend, Sweep,
        medium::{Medium, local::Local, nfs::Nfs},
        mode::Mode,
        store::FileStore,
    };

    fn name() -> LockName {
        LockName::new("etl").expect("a valid name")
    }

    /// Returns a store in `directory` that treats it as `medium`.
    fn store(directory: &Path, medium: &'static dyn Medium) -> FileStore {
        FileStore::new(directory.to_owned(), Mode::new(None).expect("a valid mode"), medium)
    }

    fn acquire(directory: &Path) -> (FileStore, AcquireRequest, AcquireOutcome) {
        let store = store(directory, &Local { keeps_locks: true });
        let request = AcquireRequest::new(name(), LeaseId::random(), "me");
        let outcome = store.acquire(&request).expect("nothing is in the way");
        (store, request, outcome)
    }

    fn use_once(directory: &Path) -> u64 {
        let (store, request, outcome) = acquire(directory);
        let AcquireOutcome::Granted(grant) = outcome else { panic!("the lock is held") };
        store.release(&request.lease(grant.token), Duration::ZERO).expect("nothing is in the way");
        grant.token.expect("file locks have tokens").get()
    }

    #[test]
    fn a_sweep_on_nfs_empties_records_and_keeps_lock_files() {
        for medium in [&Nfs as &'static dyn Medium, &Local { keeps_locks: false }] {
            let dir = tempfile::tempdir().expect("a directory for the test");
            let token = use_once(dir.path());
            let store = store(dir.path(), medium);
            let files = store.files("etl");
            fs::write(&files.queue, "").expect("the directory is writable");
            let inode = |path: &Path| fs::metadata(path).map(|found| found.ino()).ok();
            let before = [&files.lock, &files.queue, &files.record].map(|path| inode(path));
            for dry_run in [true, false] {
                let sweep = Sweep::new(Duration::ZERO).dry_run(dry_run);
                let swept = store.sweep(sweep).expect("nothing is in the way");
                assert_eq!(swept.removed, std::slice::from_ref(&files.record));
            }
            assert_eq!([&files.lock, &files.queue, &files.record].map(|path| inode(path)), before);
            assert_eq!(fs::read(&files.record).ok(), Some(Vec::new()), "the record is gone");
            let again = store.sweep(Sweep::new(Duration::ZERO)).expect("nothing is in the way");
            assert_eq!((again.removed.len(), again.kept), (0, 1));
            assert!(store.purge(&name()).expect("nothing is in the way"));
            assert!(use_once(dir.path()) > token);
        }
    }

    /// The lock passed to another holder while the request of the sweep was on its way.
    #[test]
    fn a_late_sweep_request_misses_the_next_holder() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        use_once(dir.path());
        let files = store(dir.path(), &Nfs).files("etl");
        let late = open::existing(&files.record, Access::ReadWrite, OFlag::empty()).expect("the record exists");
        let (next, request, outcome) = acquire(dir.path());
        // As on NFS, where each record is a new file.
        let record = fs::read(&files.record).expect("the record exists");
        let new = dir.path().join("new");
        fs::write(&new, &record).and_then(|()| fs::rename(&new, &files.record)).expect("the record can be replaced");
        empty_record(&files, &late.file).expect("the old record is open");
        assert_eq!(fs::read(&files.record).ok(), Some(record));
        let AcquireOutcome::Granted(grant) = outcome else { panic!("the lock is held") };
        let renewed = next.renew(&request.lease(grant.token)).expect("nothing is in the way");
        assert_eq!(renewed, lock_core::backend::Renewal::Renewed);
    }

    #[test]
    fn a_local_sweep_removes_all_files_of_a_name() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        for _ in 0..2 {
            use_once(dir.path());
        }
        let backend = FileBackend::open(dir.path()).expect("a directory");
        let swept = backend.sweep(Sweep::new(Duration::ZERO)).expect("nothing is in the way");
        assert_eq!(swept.removed, [dir.path().join("etl.lock")]);
        let left: Vec<_> = fs::read_dir(dir.path()).expect("a directory").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, [".onelock-floor"]);
    }
}
