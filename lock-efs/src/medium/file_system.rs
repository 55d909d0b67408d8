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
        // Only NFS has properties to be looked up, in a table of mounts that may be long. Without
        // /proc only the type of the file system is known.
        let kind = type_of(directory);
        let mount = if kind.is_none_or(|kind| kind == NFS) { Mount::of(directory).ok().flatten() } else { None };
        match mount.and_then(|mount| mount.nfs()) {
            Some(facts) => match facts.objection() {
                None => Ok(Self::Nfs(facts)),
                Some(objection) => {
                    let what = format!("locks in {} would not be safe: {objection}", directory.display());
                    Err(Error::new(ErrorKind::StoreNotReady, what))
                }
            },
            None if kind.is_some_and(is_of_network) => Ok(Self::Unknown),
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

    /// Returns whether requests can be granted in the order in which they came. It needs the same
    /// locks of bytes, with large numbers.
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
pub(crate) fn is_remote(directory: &Path) -> bool {
    type_of(directory).is_some_and(is_of_network)
}

/// The type of a file system, as a number of statfs(2).
type TypeNumber = i64;

const NFS: TypeNumber = 0x6969;

fn is_of_network(kind: TypeNumber) -> bool {
    /// The numbers of statfs(2) and of the programs that list them, such as stat(1).
    const REMOTE: [TypeNumber; 24] = [
        NFS,
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
    REMOTE.contains(&kind)
}

#[cfg(target_os = "linux")]
#[allow(clippy::unnecessary_cast, reason = "the type of the number depends on the architecture")]
fn type_of(directory: &Path) -> Option<TypeNumber> {
    nix::sys::statfs::statfs(directory).ok().map(|found| found.filesystem_type().0 as TypeNumber)
}

#[cfg(not(target_os = "linux"))]
fn type_of(_: &Path) -> Option<TypeNumber> {
    None
}
