//! Detects the kind of file system that a directory is on.

use std::path::Path;

use lock_core::{Error, ErrorKind};

use super::{
    Medium,
    local::Local,
    mount::{Mount, NfsFacts},
    nfs::Nfs,
};
use crate::fair;

/// The kind of file system that the locks are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// The kernel of this machine keeps the locks.
    Local,
    /// NFSv4, mounted so that a lock excludes all hosts and its loss can be detected.
    Nfs(NfsFacts),
    /// Another network file system, or one that a program provides (FUSE): a lock may be lost
    /// without notice.
    Unknown,
}

impl FileSystem {
    /// Detects the file system of `directory`, which must exist.
    pub(crate) fn of(directory: &Path) -> Result<Self, Error> {
        // Without /proc only the type of the file system is known.
        let nfs = Mount::of(directory).ok().flatten().and_then(|mount| mount.nfs());
        match nfs {
            Some(facts) => match facts.objection() {
                None => Ok(Self::Nfs(facts)),
                Some(objection) => {
                    let what = format!("locks in {} would not be safe: {objection}", directory.display());
                    Err(Error::new(ErrorKind::StoreNotReady, what))
                }
            },
            None if is_remote(directory) => Ok(Self::Unknown),
            None => Ok(Self::Local),
        }
    }

    pub(crate) fn is_nfs(&self) -> bool {
        matches!(self, Self::Nfs(_))
    }

    /// Returns whether shared locks and permits are offered. They need locks of single bytes that
    /// belong to an open file, and exclude the same clients as its `flock`.
    pub(crate) fn has_modes(&self) -> bool {
        cfg!(target_os = "linux")
            && match self {
                Self::Local => true,
                Self::Nfs(facts) => facts.shares_byte_locks,
                Self::Unknown => false,
            }
    }

    /// Returns whether requests can be granted in the order in which they came.
    pub(crate) fn has_fair(&self) -> bool {
        self.has_modes() && fair::is_possible()
    }

    /// Returns the operations that depend on this file system.
    pub(crate) fn medium(&self) -> &'static dyn Medium {
        match self {
            Self::Nfs(_) => &Nfs,
            Self::Local => &Local { keeps_locks: true },
            Self::Unknown => &Local { keeps_locks: false },
        }
    }
}

/// Returns whether `directory` is on a network file system, or on one that a program provides
/// (FUSE).
///
/// There a lock can be lost without notice, and no event reports changes by other machines.
#[cfg(target_os = "linux")]
pub(crate) fn is_remote(directory: &Path) -> bool {
    /// The numbers of statfs(2) and of the programs that list them, such as stat(1).
    const REMOTE: [i64; 24] = [
        0x6969,      // NFS
        0x517B,      // SMB1
        0xFE53_4D42, // SMB2
        0xFF53_4D42, // CIFS
        0x00C3_6400, // Ceph
        0x5346_414F, // AFS
        0x6B41_4653, // AFS of the kernel
        0x7375_7245, // Coda
        0x0102_1997, // 9p
        0x0BD0_0BD0, // Lustre
        0x0116_1970, // GFS2
        0x7461_636F, // OCFS2
        0x6573_5546, // FUSE
        0x6A65_6A63, // virtiofs
        0x4750_4653, // GPFS
        0x1983_0326, // BeeGFS
        0x2003_0528, // OrangeFS
        0x0131_11A8, // IBRIX
        0xAAD7_AAEA, // PanFS
        0xBEEF_DEAD, // StorNext
        0x6163_6673, // ACFS
        0x7C7C_6673, // Parallels
        0xBACB_ACBC, // VMware
        0x786F_4256, // VirtualBox
    ];
    #[allow(clippy::unnecessary_cast, reason = "the type of the number depends on the architecture")]
    let magic = nix::sys::statfs::statfs(directory).map(|found| found.filesystem_type().0 as i64);
    magic.is_ok_and(|magic| REMOTE.contains(&magic))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_remote(_: &Path) -> bool {
    false
}
