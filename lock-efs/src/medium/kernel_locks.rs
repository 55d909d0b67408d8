//! Reads the kernel's list of locks.

#[cfg(target_os = "linux")]
use std::os::unix::fs::MetadataExt;
use std::{collections::HashSet, fs};

/// The `flock` locks in the kernel's list. A listed lock is held.
///
/// A lock that is not listed may be held too. The list omits processes of other containers, and
/// some file systems (btrfs, overlayfs) show other device numbers in it than in `stat`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelLocks(HashSet<(u64, u64, u64)>);

impl KernelLocks {
    pub(crate) fn read() -> Self {
        fs::read_to_string("/proc/locks").map(|text| Self::parse(&text)).unwrap_or_default()
    }

    /// Parses lines like `3: FLOCK  ADVISORY  WRITE 5086 fe:00:382078 0 EOF`. A line with `->` is
    /// a waiter.
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
    pub(crate) fn list(&self, found: &fs::Metadata) -> bool {
        use nix::sys::stat::{major, minor};
        self.0.contains(&(major(found.dev()), minor(found.dev()), found.ino()))
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn list(&self, _: &fs::Metadata) -> bool {
        false
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
        assert_eq!(KernelLocks::parse(text), KernelLocks(HashSet::from([(0x103, 0x0a, 42), (0, 0x1a, 44)])));
    }
}
