//! Whether somebody holds a lock, disturbing nobody if possible.

use std::{
    collections::HashSet,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use lock_core::Error;
use nix::fcntl::{FlockArg, OFlag};

use crate::{error, lockfile::try_flock};

/// The `flock` locks that the kernel lists: these are certainly held. Others may be too: the list leaves out processes of foreign
/// containers, and some file systems (btrfs, overlayfs) show other device numbers to `stat` than to it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelLocks(HashSet<(u64, u64, u64)>);

impl KernelLocks {
    pub(crate) fn read() -> Self {
        fs::read_to_string("/proc/locks").map(|text| Self::parse(&text)).unwrap_or_default()
    }

    /// Lines like `3: FLOCK  ADVISORY  WRITE 5086 fe:00:382078 0 EOF`; those with `->` are only waiting.
    fn parse(text: &str) -> Self {
        let inode = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let mut file = words.next().filter(|&class| class == "FLOCK").and_then(|_| words.nth(3))?.split(':');
            let major = u64::from_str_radix(file.next()?, 16).ok()?;
            let minor = u64::from_str_radix(file.next()?, 16).ok()?;
            Some((major, minor, file.next()?.parse().ok()?))
        };
        Self(text.lines().filter_map(inode).collect())
    }

    #[cfg(target_os = "linux")]
    fn list(&self, found: &fs::Metadata) -> bool {
        use nix::sys::stat::{major, minor};
        self.0.contains(&(major(found.dev()), minor(found.dev()), found.ino()))
    }

    #[cfg(not(target_os = "linux"))]
    fn list(&self, _: &fs::Metadata) -> bool {
        false
    }
}

/// Whether the lock file at `path` is there and locked by anybody.
///
/// What the kernel does not list is tried with a shared lock, given back at once; a contender that comes in these microseconds
/// finds the lock taken without a record that says so, and tries once more.
pub(crate) fn is_locked(path: &Path, known: &KernelLocks) -> Result<bool, Error> {
    let fail = |e: io::Error| error::at("look at the lock file", path, e);
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(fail(e)),
    };
    if known.list(&found) {
        return Ok(true);
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(fail(e)),
    };
    let got_it = try_flock(&file, FlockArg::LockSharedNonblock).map_err(|e| fail(e.into()))?;
    Ok(!got_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_held_flock_locks_are_read_from_the_kernels_list() {
        let text = "1: POSIX  ADVISORY  WRITE 5086 fe:00:382078 0 EOF\n\
                    2: FLOCK  ADVISORY  WRITE 7 103:0a:42 0 EOF\n\
                    2: -> FLOCK  ADVISORY  WRITE 8 00:01:43 0 EOF\n\
                    3: FLOCK  ADVISORY  READ 9 00:1a:44 0 EOF\n\
                    4: FLOCK\n\n";
        assert_eq!(KernelLocks::parse(text), KernelLocks(HashSet::from([(0x103, 0x0a, 42), (0, 0x1a, 44)])));
    }
}
