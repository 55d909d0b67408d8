//! Locks of single bytes of a file.
//!
//! An open file description has them, as with `flock`, and not the process. So two locks of one
//! process exclude each other, and closing another descriptor of the file frees none.

use std::{fs::File, ops::Range};

use nix::errno::Errno;

/// Returns whether the byte was locked. Locking a byte again through one descriptor succeeds.
#[cfg(target_os = "linux")]
pub(crate) fn try_lock(file: &File, byte: u64) -> Result<bool, Errno> {
    try_lock_all(file, &(byte..byte + 1))
}

/// Like [`try_lock`], for all bytes of `range` together.
#[cfg(target_os = "linux")]
pub(crate) fn try_lock_all(file: &File, range: &Range<u64>) -> Result<bool, Errno> {
    match set(file, libc::F_WRLCK, range) {
        Ok(()) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(target_os = "linux")]
pub(crate) fn unlock(file: &File, byte: u64) -> Result<(), Errno> {
    set(file, libc::F_UNLCK, &(byte..byte + 1))
}

/// Returns bytes of `range` that another descriptor has locked, if there are any.
#[cfg(target_os = "linux")]
pub(crate) fn conflict(file: &File, range: &Range<u64>) -> Result<Option<Range<u64>>, Errno> {
    let mut lock = lock_of(libc::F_WRLCK, range);
    fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut lock))?;
    if i32::from(lock.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    let start = u64::try_from(lock.l_start).unwrap_or_default();
    // The length zero means that the lock goes to the end.
    let end = match u64::try_from(lock.l_len) {
        Ok(0) | Err(_) => u64::MAX,
        Ok(length) => start.saturating_add(length),
    };
    Ok(Some(start.max(range.start)..end.min(range.end)))
}

/// Returns the bytes of `range` that other descriptors have locked, in their order.
pub(crate) fn conflicts(file: &File, range: Range<u64>) -> Result<Vec<u64>, Errno> {
    let mut found = Vec::new();
    let mut unknown = Vec::from([range]);
    // The kernel tells one lock of a range, in no particular order.
    while let Some(range) = unknown.pop() {
        let Some(locked) = conflict(file, &range)? else { continue };
        found.extend(locked.clone());
        unknown.extend([range.start..locked.start, locked.end..range.end].into_iter().filter(|rest| !rest.is_empty()));
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(target_os = "linux")]
use {
    nix::{
        fcntl::{FcntlArg, fcntl},
        libc,
    },
    std::os::fd::AsFd,
};

#[cfg(target_os = "linux")]
fn set(file: &File, kind: i32, range: &Range<u64>) -> Result<(), Errno> {
    let lock = lock_of(kind, range);
    loop {
        match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&lock)) {
            Err(Errno::EINTR) => {}
            result => return result.map(drop),
        }
    }
}

#[cfg(target_os = "linux")]
fn lock_of(kind: i32, range: &Range<u64>) -> libc::flock {
    let offset = |n: u64| libc::off_t::try_from(n).unwrap_or(libc::off_t::MAX);
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: offset(range.start),
        l_len: offset(range.end - range.start),
        l_pid: 0,
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn try_lock(_: &File, _: u64) -> Result<bool, Errno> {
    Err(Errno::ENOSYS)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn try_lock_all(_: &File, _: &Range<u64>) -> Result<bool, Errno> {
    Err(Errno::ENOSYS)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn unlock(_: &File, _: u64) -> Result<(), Errno> {
    Err(Errno::ENOSYS)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn conflict(_: &File, _: &Range<u64>) -> Result<Option<Range<u64>>, Errno> {
    Err(Errno::ENOSYS)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_one_process_exclude_each_other() {
        let file = tempfile::NamedTempFile::new().expect("a file for the test");
        let open = || file.reopen().expect("the file exists");
        let (one, other) = (open(), open());
        assert_eq!(try_lock(&one, 20), Ok(true));
        assert_eq!((try_lock(&other, 20), try_lock(&other, 21)), (Ok(false), Ok(true)));
        assert_eq!(conflict(&one, &(16..24)), Ok(Some(21..22)), "its own lock is no conflict");
        drop(open());
        assert_eq!(conflict(&other, &(16..24)), Ok(Some(20..21)), "closing another descriptor frees nothing");
        assert_eq!(conflict(&other, &(21..24)), Ok(None));
        assert_eq!(unlock(&one, 20), Ok(()));
        assert_eq!(conflict(&other, &(16..24)), Ok(None));
    }
}
