//! Reads the kernel's list of locks.

#[cfg(target_os = "linux")]
use std::os::unix::fs::MetadataExt;
use std::{
    collections::HashMap,
    fs,
    io::{self, Read},
    path::Path,
};

use nix::fcntl::OFlag;

use crate::{
    open::{self, Access},
    process::LockingProcess,
};

const LIST: &str = "/proc/locks";
/// More than a page, which the kernel gives by one read.
const BUFFER_BYTES: usize = 64 * 1024;
/// How often a list of several pages is read.
const PASSES: usize = 3;

/// The `flock` locks in the kernel's list, with the processes that took them. A listed lock is
/// held.
///
/// A lock that is not listed may be held too. The list omits processes of other containers, and
/// some file systems (btrfs, overlayfs) show other device numbers in it than in `stat`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelLocks(HashMap<(u64, u64, u64), LockingProcess>);

impl KernelLocks {
    pub(crate) fn read() -> Self {
        Self::collect(|| open::existing(Path::new(LIST), Access::Read, OFlag::empty()).map(|opened| opened.file))
    }

    /// Reads the list, and again if it has several pages.
    ///
    /// One page shows the locks of one moment. A lock that is released between two pages moves the
    /// rest of the list, and then another held lock is in neither page.
    fn collect<R: Read>(mut open: impl FnMut() -> io::Result<R>) -> Self {
        let mut all = Self::default();
        for _ in 0..PASSES {
            let Ok(pages) = open().and_then(read_pages) else { break };
            all.0.extend(Self::parse(&String::from_utf8_lossy(&pages.concat())).0);
            if pages.len() < 2 {
                break;
            }
        }
        all
    }

    /// Parses lines like `3: FLOCK  ADVISORY  WRITE 5086 fe:00:382078 0 EOF`. A line with `->` is
    /// a waiter.
    fn parse(text: &str) -> Self {
        let lock = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let access = words.next().filter(|&class| class == "FLOCK").and_then(|_| words.nth(1))?;
            let pid = words.next()?.parse().ok()?;
            let mut file = words.next()?.split(':');
            let major = u64::from_str_radix(file.next()?, 16).ok()?;
            let minor = u64::from_str_radix(file.next()?, 16).ok()?;
            let process = LockingProcess { pid, shared: access == "READ" };
            Some(((major, minor, file.next()?.parse().ok()?), process))
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

fn read_pages(mut list: impl Read) -> io::Result<Vec<Vec<u8>>> {
    let (mut pages, mut page) = (Vec::new(), vec![0; BUFFER_BYTES]);
    loop {
        match list.read(&mut page)? {
            0 => return Ok(pages),
            n => pages.push(page[..n].to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives each page by one read, as the kernel does.
    struct Pages(Vec<String>);

    impl Read for Pages {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let page = self.0.remove(0);
            assert!(buffer.len() >= 4096, "a short read divides a page");
            buffer[..page.len()].copy_from_slice(page.as_bytes());
            Ok(page.len())
        }
    }

    fn writer(pid: u32) -> LockingProcess {
        LockingProcess { pid, shared: false }
    }

    fn line(inode: u64) -> String {
        format!("1: FLOCK  ADVISORY  WRITE 7 00:01:{inode} 0 EOF\n")
    }

    #[test]
    fn a_lock_that_moved_between_pages_is_found() {
        let mut passes = vec![vec![line(1), line(3)], vec![line(2), line(3)], vec![line(2)]].into_iter();
        let found = KernelLocks::collect(|| passes.next().map(Pages).ok_or_else(|| io::ErrorKind::NotFound.into()));
        assert_eq!(found, KernelLocks([1, 2, 3].map(|inode| ((0, 1, inode), writer(7))).into()));
        assert_eq!(passes.len(), 0);
    }

    #[test]
    fn a_list_of_one_page_is_read_once() {
        let mut passes = vec![vec![line(1)], vec![line(2)]].into_iter();
        let found = KernelLocks::collect(|| passes.next().map(Pages).ok_or_else(|| io::ErrorKind::NotFound.into()));
        assert_eq!(found, KernelLocks([((0, 1, 1), writer(7))].into()));
    }

    #[test]
    fn only_held_flock_locks_are_read_from_the_kernels_list() {
        let text = "1: POSIX  ADVISORY  WRITE 5086 fe:00:382078 0 EOF\n\
                    2: FLOCK  ADVISORY  WRITE 7 103:0a:42 0 EOF\n\
                    2: -> FLOCK  ADVISORY  WRITE 8 00:01:43 0 EOF\n\
                    3: FLOCK  ADVISORY  READ 9 00:1a:44 0 EOF\n\
                    4: FLOCK\n\n";
        assert_eq!(
            KernelLocks::parse(text),
            KernelLocks(HashMap::from([
                ((0x103, 0x0a, 42), writer(7)),
                ((0, 0x1a, 44), LockingProcess { pid: 9, shared: true })
            ]))
        );
    }
}
