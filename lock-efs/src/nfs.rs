//! What is different on NFS: what can be believed, and what a lost lock looks like.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsFd,
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use lock_core::{Error, LeaseId};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
};

use crate::{
    error,
    lockfile::{LockFile, widen},
    mode::Mode,
};

/// What a probe of a held lock found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Probe {
    /// The server honoured the lock at some moment within the call.
    Held,
    /// It is gone for good, for this reason.
    Lost(String),
}

/// Asks the server whether the lock of `lock`, opened for direct reads, still stands: one READ request under the lock's own identity.
///
/// Nothing else asks. A lost lock stays invisible to `fstat`, cached reads, `F_GETLK` and `/proc/locks`, and locking again
/// succeeds even after somebody else has been in.
pub(crate) fn probe(lock: &LockFile, path: &Path) -> Result<Probe, Error> {
    match read_direct(lock.file()) {
        Ok(()) => {}
        Err(Errno::EIO) => {
            return Ok(Probe::Lost(
                "the NFS server gave the lock up: this host was out of its reach for longer than a lease, or the server lost its state".into(),
            ));
        }
        Err(Errno::ESTALE) => return Ok(Probe::Lost(removed(path))),
        Err(e) => return Err(error::at("read through the lock on", path, e)),
    }
    // From the cache, and so up to a minute late: but a lock file that is removed while it is locked is somebody's mistake, or
    // `filelock`'s way of giving its own lock back.
    Ok(match fs::symlink_metadata(path) {
        Ok(found) if lock.inode.is(&found) => Probe::Held,
        Ok(found) if found.dev() != lock.inode.device => Probe::Lost(unmounted(path)),
        Ok(_) => Probe::Lost(removed(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => match path.parent().and_then(|dir| fs::metadata(dir).ok()) {
            Some(dir) if dir.dev() == lock.inode.device => Probe::Lost(removed(path)),
            _ => Probe::Lost(unmounted(path)),
        },
        Err(e) if e.raw_os_error() == Some(libc::ESTALE) => Probe::Lost(removed(path)),
        Err(e) => return Err(error::at("look at the lock file", path, e)),
    })
}

fn read_direct(file: &File) -> Result<(), Errno> {
    loop {
        match file.read_at(&mut [0; 1], 0) {
            Ok(_) => return Ok(()),
            Err(e) => match e.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw) {
                Errno::EINTR => {}
                errno => return Err(errno),
            },
        }
    }
}

fn removed(path: &Path) -> String {
    format!("the lock file {} was removed or replaced while the lock was held", path.display())
}

fn unmounted(path: &Path) -> String {
    format!("the file system of {} was unmounted while the lock was held", path.display())
}

/// Whether somebody holds a lock on the file at `path`, without taking one for it: the server is asked, and says so of every client.
pub(crate) fn is_locked(path: &Path) -> Result<bool, Error> {
    let fail = |e: io::Error| error::at("look at the lock file", path, e);
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(fail(e)),
    };
    let mut conflict = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file.as_fd(), FcntlArg::F_GETLK(&mut conflict)).map_err(|e| fail(e.into()))?;
    Ok(i32::from(conflict.l_type) != libc::F_UNLCK)
}

/// The next record, written beside the lock file and then put in the place of the one before.
///
/// Making a file in the directory is also what makes the directory fresh in this host's cache: for up to a minute before that, the
/// path of a lock file that was removed elsewhere still leads to the old file, which can be opened and even locked.
#[derive(Debug)]
pub(crate) struct Draft {
    file: File,
    path: PathBuf,
    placed: bool,
}

impl Draft {
    /// Makes the file, of which there is one for each acquisition.
    pub(crate) fn create(directory: &Path, id: LeaseId, mode: Mode) -> Result<Self, Error> {
        let path = directory.join(format!("{DRAFT_PREFIX}{id}"));
        let fail = |e: io::Error| error::at("write the lock record", &path, e);
        // Not O_EXCL, for which servers keep the verifier in the very times that are to tell their clock.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NOCTTY;
        let mut options = OpenOptions::new();
        let file =
            options.write(true).create(true).truncate(true).mode(mode.file).custom_flags(flags.bits()).open(&path);
        let file = file.map_err(fail)?;
        let found = file.metadata().map_err(fail)?;
        widen(&file, &found, mode, &path);
        Ok(Self { file, path, placed: false })
    }

    /// The server's clock, as it set the file's time a moment ago.
    pub(crate) fn server_us(&self) -> Result<u64, Error> {
        let time = self.file.metadata().and_then(|found| found.modified());
        let time = time.map_err(|e| error::at("read the time of", &self.path, e))?;
        let micros = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        Ok(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// Writes `bytes`. A server that has not got them yet would show the others an empty record.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        let written = self.file.write_all_at(bytes, 0).and_then(|()| self.file.sync_data());
        written.map_err(|e| error::at("write the lock record", &self.path, e))
    }

    /// Writes `bytes` and renames the file to `record`, in one step for readers on any host.
    pub(crate) fn place(mut self, bytes: &[u8], record: &Path) -> Result<File, Error> {
        self.write(bytes)?;
        fs::rename(&self.path, record).map_err(|e| error::at("put the lock record in the place of", record, e))?;
        self.placed = true;
        self.file.try_clone().map_err(|e| error::at("keep open the lock record", record, e))
    }
}

/// What the names of drafts begin with; the names of locks do not.
pub(crate) const DRAFT_PREFIX: &str = ".onelock-";

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.placed {
            // Left over otherwise, until the next sweep.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MODE: Mode = Mode { file: 0o600, directory: 0o700, exact: false };

    #[test]
    fn the_time_of_a_draft_is_what_its_file_system_says() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let draft = Draft::create(dir.path(), LeaseId::from(7), MODE).expect("a draft can be made");
        let ahead = SystemTime::now() + Duration::from_secs(3_600);
        draft.file.set_modified(ahead).expect("it is our file");
        let told = SystemTime::UNIX_EPOCH + Duration::from_micros(draft.server_us().expect("it has a time"));
        assert!(ahead.duration_since(told).expect("not later") < Duration::from_millis(1));
    }

    #[test]
    fn a_draft_that_is_not_placed_leaves_nothing_and_one_that_is_replaces_the_record() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let (record, draft) = (dir.path().join("a.info"), || Draft::create(dir.path(), LeaseId::from(7), MODE));
        drop(draft().expect("a draft can be made"));
        for text in ["first, and longer", "second"] {
            draft().expect("a draft can be made").place(text.as_bytes(), &record).expect("it can be renamed");
            assert_eq!(fs::read_to_string(&record).expect("it is there"), text);
        }
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 1);
    }
}
