//! Reads the kernel's list of locks.

#[cfg(target_os = "linux")]
use std::os::unix::fs::MetadataExt;
use std::{collections::HashMap, fs, path::Path};

use crate::process::LockingProcess;

/// The `flock` locks in the kernel's list, with the processes that took them. A listed lock is
/// held.
///
/// A lock that is not listed may be held too. The list omits processes of other containers, and
/// some file systems (btrfs, overlayfs) show other device numbers in it than in `stat`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelLocks(HashMap<(u64, u64, u64), LockingProcess>);

impl KernelLocks {
    pub(crate) fn read() -> Self {
        fs::read_to_string("/proc/locks").map(|text| Self::parse(&text)).unwrap_or_default()
    }

    /// Parses lines like `3: FLOCK  ADVISORY  WRITE 5086 fe:00:382078 0 EOF`. A line with `->` is
    /// a waiter.
    fn parse(text: &str) -> Self {
        let lock = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let pid = words.next().filter(|&class| class == "FLOCK").and_then(|_| words.nth(2))?;
            let mut file = words.next()?.split(':');
            let major = u64::from_str_radix(file.next()?, 16).ok()?;
            let minor = u64::from_str_radix(file.next()?, 16).ok()?;
            Some(((major, minor, file.next()?.parse().ok()?), LockingProcess(pid.parse().ok()?)))
        };
        Self(text.lines().filter_map(lock).collect())
    }

    pub(crate) fn list(&self, found: &fs::Metadata) -> bool {
        self.process(found).is_some()
    }

    /// Returns the process that locked the file at `path`, if the kernel lists it.
    pub(crate) fn process_at(&self, path: &Path) -> Option<LockingProcess> {
        self.process(&fs::symlink_metadata(path).ok()?)
    }

    #[cfg(target_os = "linux")]
    fn process(&self, found: &fs::Metadata) -> Option<LockingProcess> {
        use nix::sys::stat::{major, minor};
        self.0.get(&(major(found.dev()), minor(found.dev()), found.ino())).copied()
    }

    #[cfg(not(target_os = "linux"))]
    fn process(&self, _: &fs::Metadata) -> Option<LockingProcess> {
        None
    }
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
        assert_eq!(
            KernelLocks::parse(text),
            KernelLocks(HashMap::from([((0x103, 0x0a, 42), LockingProcess(7)), ((0, 0x1a, 44), LockingProcess(9))]))
        );
    }
}
