//! NFSv4, where calls are requests to a server and a lock can be lost.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsFd,
        unix::fs::{FileExt, MetadataExt},
    },
    path::Path,
    time::{Duration, SystemTime},
};

use lock_core::Error;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
};

use super::{
    BegunRecord, Medium, NewRecord, Probe,
    fresh::{self, LastRefresh},
    kernel_locks::KernelLocks,
    refusal::{CachedHolder, LockAttempt},
    temp_record::TempRecord,
};
use crate::{
    byte_locks, error, files,
    lockfile::LockFile,
    mode::Sharing,
    open::{self, Access},
    parts::GateWait,
    process::LockingProcess,
    sidecar,
};

/// How long NFS clients cache the attributes of a directory (acdirmax).
pub(crate) const DIRECTORY_CACHE: Duration = Duration::from_secs(60);
/// The number of locks of one process on one mount that causes a warning. EFS refuses the 257th.
const MANY_ON_EFS: usize = 200;

/// An NFSv4 mount.
#[derive(Debug)]
pub(crate) struct Nfs;

impl Medium for Nfs {
    /// Direct reads reach the server; see [`probe`]. A read of a record from the cache may miss the
    /// mark of its release, and would report a crash that was none: a client that opens the file
    /// between two changes keeps the old text, if another of its processes has the file open for
    /// writing, or inspects it at the same time.
    #[cfg(target_os = "linux")]
    fn open_flags(&self) -> OFlag {
        OFlag::O_DIRECT
    }

    #[cfg(not(target_os = "linux"))]
    fn open_flags(&self) -> OFlag {
        OFlag::empty()
    }

    /// Inspections take no lock here, and each try is a request to the server. So if the record
    /// explains the refusal, the lock is not tried again. The holder that the record names is
    /// cached for a while.
    fn try_lock(&self, attempt: &LockAttempt<'_>, cached: Option<CachedHolder>) -> Result<Option<CachedHolder>, Error> {
        let cached = cached.filter(|cached| cached.is_fresh_for(attempt.id));
        if attempt.succeeds()? {
            return Ok(None);
        }
        if cached.is_some() {
            return Ok(cached);
        }
        let record = (attempt.peek)();
        if attempt.is_explained_by(&record) {
            return Ok(Some(attempt.refused(record)));
        }
        attempt.try_again(record)
    }

    /// Asks the server, which leaves the lock of the asking descriptor out of its answer. Locks
    /// nothing: a server need not let a client change a shared lock to an exclusive one and back.
    fn is_alone(&self, lock: &LockFile, path: &Path) -> Result<Option<bool>, Error> {
        let others = byte_locks::conflict(lock.file(), &(0..u64::MAX));
        others.map(|others| Some(others.is_none())).map_err(|e| error::at("inspect the lock file", path, e))
    }

    /// A process that takes a part sends some twenty requests meanwhile. The core ends an attempt
    /// after 4 s if the server has the shortest lease, 10 s.
    fn gate_wait(&self) -> GateWait {
        GateWait {
            limit: Duration::from_secs(2),
            limit_of_waiting: Duration::from_millis(500),
            longest_pause: Duration::from_millis(50),
        }
    }

    fn check(&self, lock: &LockFile, path: &Path, last: &LastRefresh) -> Result<Probe, Error> {
        probe(lock, path, last)
    }

    fn is_locked(&self, path: &Path, _known: &KernelLocks) -> Result<bool, Error> {
        is_locked(path)
    }

    /// Names none: the kernel still lists a lock that the server dropped.
    fn holding_process(&self, _: &Path, _: &KernelLocks) -> Option<LockingProcess> {
        None
    }

    /// Refreshes the directory, and creates the file of the record, whose time shows the server's
    /// clock.
    fn begin_record(&self, lock: &LockFile, directory: &Path, sharing: Sharing) -> Result<BegunRecord, Error> {
        self.refresh_directory(directory)?;
        match TempRecord::create(directory, sharing) {
            Ok(temp) => Ok(BegunRecord::Temp(temp)),
            Err(error) if error::is_full(&error) => match lock.server_us() {
                Ok(server_us) => Ok(BegunRecord::Full { error, server_us }),
                Err(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Even the previous record cannot be overwritten: a late request of its holder could reach it.
    fn allows_no_record(&self, _: bool) -> bool {
        true
    }

    fn place_record(&self, record: &NewRecord<'_>, begun: BegunRecord) -> Result<File, Error> {
        let temp = match begun {
            BegunRecord::Temp(temp) => temp,
            BegunRecord::Full { error, .. } => return Err(error),
            BegunRecord::Nothing => TempRecord::create(record.directory, record.sharing)?,
        };
        temp.place(record.bytes, &record.files.record)
    }

    /// The mark must reach the server before the unlock. Otherwise the next holder could miss the
    /// mark, and would report a crash of this one.
    fn mark_released(&self, file: &File, now_us: u64, hold_for: Duration) -> io::Result<()> {
        sidecar::mark_released(file, now_us, hold_for)?;
        file.sync_data()
    }

    /// Does nothing: no event reports changes by other hosts, so there are no watches.
    fn wake_watches(&self, _: &Path) {}

    fn refresh_directory(&self, directory: &Path) -> Result<(), Error> {
        fresh::refresh(directory).map_err(|e| fresh::failed(directory, e))
    }

    fn store_time(&self) -> Option<SystemTime> {
        None
    }

    fn server_us(&self, lock: &LockFile) -> io::Result<Option<u64>> {
        lock.server_us().map(Some)
    }

    fn is_nfs(&self) -> bool {
        true
    }

    fn keeps_locks(&self) -> bool {
        false
    }

    fn many_locks(&self) -> Option<usize> {
        Some(MANY_ON_EFS)
    }
}

/// Asks the server whether `lock`, opened for direct reads, is still held: one READ request with
/// the identity of the lock.
///
/// No other call detects a lost lock: `fstat`, cached reads, `F_GETLK` and `/proc/locks` do not
/// show it. Locking again succeeds even after another client held the lock in between.
fn probe(lock: &LockFile, path: &Path, last: &LastRefresh) -> Result<Probe, Error> {
    match read_direct(lock.file()) {
        Ok(()) => {}
        Err(Errno::EIO) => {
            return Ok(Probe::Lost(
                "the NFS server dropped the lock: it did not hear from this host for longer than its lease, it lost \
                 its \
                 state, or another host has this host's name or NFS identity (onelock doctor --peer compares them)"
                    .into(),
            ));
        }
        Err(Errno::ESTALE) => return Ok(Probe::removed(path)),
        Err(e) => return Err(error::at("probe the lock on", path, e)),
    }
    compare(lock, path, last)
}

/// Compares `lock` with the file that its path names at the server.
fn compare(lock: &LockFile, path: &Path, last: &LastRefresh) -> Result<Probe, Error> {
    let found = match path.parent().map_or(Ok(()), |directory| last.refresh(directory)) {
        Ok(()) => fs::symlink_metadata(path),
        Err(e) if fresh::is_gone(&e) => return Ok(Probe::Lost(directory_gone(lock, path))),
        Err(e) => return Err(fresh::failed(path, e)),
    };
    Ok(match found {
        Ok(found) if lock.inode.is(&found) => Probe::StillHeld,
        Ok(found) if found.dev() != lock.inode.device => Probe::Lost(unmounted(path)),
        Ok(_) => Probe::removed(path),
        Err(e) if fresh::is_gone(&e) => match path.parent().map(fs::metadata) {
            Some(Ok(directory)) if directory.dev() == lock.inode.device => Probe::removed(path),
            _ => Probe::Lost(directory_gone(lock, path)),
        },
        Err(e) => return Err(error::at("inspect the lock file", path, e)),
    })
}

/// Returns the reason of a loss if the directory of the lock file no longer has its path.
fn directory_gone(lock: &LockFile, path: &Path) -> String {
    let is_mounted = fs::metadata(files::existing(path)).is_ok_and(|found| found.dev() == lock.inode.device);
    if !is_mounted {
        return unmounted(path);
    }
    format!("the directory of {} was moved or removed while the lock was held", path.display())
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

fn unmounted(path: &Path) -> String {
    format!("the file system of {} was unmounted while the lock was held", path.display())
}

/// Returns whether any client holds a lock on the file at `path`. The server answers for all
/// clients, and no lock is taken.
fn is_locked(path: &Path) -> Result<bool, Error> {
    let fail = |e: io::Error| error::at("inspect the lock file", path, e);
    let file = match open::existing(path, Access::Read, OFlag::empty()) {
        Ok(opened) => opened.file,
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

#[cfg(test)]
mod tests {
    use lock_core::{
        FencingToken, LockName,
        backend::{AcquireRequest, LeaseId},
    };
    use test_support::nfs::Guest;

    use super::*;
    use crate::{mode::Mode, record};

    /// A directory of the guest, at a client and at the server.
    const HERE: &str = "/efs/sync";
    const AT_SERVER: &str = "/srv/nfs/sync";

    #[test]
    fn the_server_has_what_a_call_wrote() {
        let exe = std::env::current_exe().expect("this process has a program");
        let name = exe.file_name().expect("a program has a name").display();
        let test = "medium::nfs::tests::on_a_client";
        let run = format!("exec on_a env ONELOCK_TEST_NFS=1 {name} --exact {test} --nocapture");
        let said = Guest::new(format!("#!/bin/bash\n{run}\n")).with(&exe).run();
        assert!(said.contains("ON A CLIENT") && said.contains("1 passed"), "{said}");
    }

    /// Data that the server lacks is lost if this host stops now, and hidden from other hosts.
    #[test]
    fn on_a_client() {
        if std::env::var_os("ONELOCK_TEST_NFS").is_none() {
            return;
        }
        let (here, at_server) = (Path::new(HERE), Path::new(AT_SERVER));
        fs::create_dir(here).expect("the mount is writable");
        let mode = Mode { file: 0o600, directory: 0o700, exact: false };
        let sharing = mode.sharing(&fs::metadata(here).expect("it was just created"));
        let request = AcquireRequest::new(LockName::new("etl").expect("a good name"), LeaseId::random(), "tester");
        let held = record::held(&request, FencingToken::new(1).expect("a good token"), 1, None);
        let only_file = || {
            let entry = fs::read_dir(at_server).expect("the server has the directory").next();
            fs::read(entry.expect("there is a file").expect("it is listed").path()).expect("the server has the file")
        };

        let temp = TempRecord::create(here, sharing).expect("the directory is writable");
        temp.write(&held).expect("the server has room");
        assert_eq!(only_file(), held, "a temporary record");
        let file = temp.place(&held, &here.join("etl.info")).expect("the record is placed");
        assert_eq!(only_file(), held, "a placed record");

        Nfs.mark_released(&file, 2, Duration::ZERO).expect("the record is marked");
        let mark = record::released(2, Duration::ZERO);
        assert!(only_file().starts_with(mark.as_bytes()), "the mark of a release");
        println!("ON A CLIENT");
    }
}
