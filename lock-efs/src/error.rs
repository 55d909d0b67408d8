//! Maps an errno to the kind of a lock error and to advice.

use std::{io, path::Path};

use lock_core::{Error, ErrorKind};
use nix::errno::Errno;

/// Returns the error of a system call on `path`, while `doing` ("open the lock file").
///
/// Never ambiguous: a failed attempt closes its descriptor, which frees the lock.
pub(crate) fn at(doing: &str, path: &Path, source: impl Into<io::Error>) -> Error {
    let source = source.into();
    let (kind, retryable, advice) = diagnose(source.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw));
    Error::new(kind, format!("cannot {doing} {}: {advice}", path.display()))
        .with_source(source)
        .with_retryable(retryable)
        .with_ambiguous(false)
}

/// Returns the error about a file at `path` that onelock did not write and so must not change.
pub(crate) fn stranger(path: &Path) -> Error {
    let what = format!(
        "{} is another program's file and was left unchanged; move it away, or use another directory or lock name",
        path.display()
    );
    Error::new(ErrorKind::StoreNotReady, what).with_ambiguous(false)
}

/// Returns whether `error` says that the file system has no room.
pub(crate) fn is_full(error: &Error) -> bool {
    matches!(errno_of(error), Some(Errno::ENOSPC | Errno::EDQUOT))
}

fn errno_of(error: &Error) -> Option<Errno> {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.and_then(io::Error::raw_os_error).map(Errno::from_raw)
}

/// Returns whether `error` says that this user, or any user, may not write there.
pub(crate) fn is_refused(error: &Error) -> bool {
    matches!(errno_of(error), Some(Errno::EACCES | Errno::EPERM | Errno::EROFS))
}

/// The error for a lock file that is another one at each look.
pub(crate) fn replaced_in_a_loop(path: &Path) -> Error {
    let what = format!(
        "the lock file {} is replaced again and again; find the program that removes lock files and stop it",
        path.display()
    );
    Error::new(ErrorKind::Unavailable, what).with_ambiguous(false)
}

/// Returns whether the cause of `error` is one file of a directory, so that the other files can be
/// examined nevertheless.
pub(crate) fn is_of_one_file(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::StoreNotReady | ErrorKind::PermissionDenied | ErrorKind::Corrupt)
}

/// Returns the kind, whether a retry can help, and the advice.
fn diagnose(errno: Errno) -> (ErrorKind, bool, &'static str) {
    use ErrorKind as K;
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => (K::StoreNotReady, false, "its directory is gone; create it again"),
        Errno::EEXIST => (K::StoreNotReady, false, "a file is in the way; remove it"),
        Errno::ELOOP => (K::StoreNotReady, false, "a symbolic link is in the way and is not followed; remove it"),
        Errno::EISDIR => (K::StoreNotReady, false, "a directory is in the way; remove it or use another name"),
        Errno::ENXIO | Errno::ENODEV | Errno::ESPIPE => {
            (K::StoreNotReady, false, "something that is not a regular file is in the way; remove it")
        }
        Errno::EACCES | Errno::EPERM => (
            K::PermissionDenied,
            false,
            "this user lacks permission; give it write access to the directory and its files (several users need the \
             option mode=0660 and \
             a directory of their common group without the sticky bit)",
        ),
        Errno::EROFS => {
            (K::Full, false, "the file system is read-only; remount it for writing or use another directory")
        }
        Errno::ENOSPC => (K::Full, false, "the file system is full; free some space or inodes"),
        Errno::EDQUOT => (
            K::Limit,
            false,
            "a quota is exhausted: of space, or on EFS of locks (512 on one file; 8,192 in one mount, over 256 pairs \
             of file and process); raise it or hold fewer locks at once",
        ),
        Errno::ENOLCK => (
            K::Limit,
            true,
            "no more locks are available (EFS allows 512 on one file, and 8,192 in one mount over 256 pairs of file \
             and process); hold fewer at once",
        ),
        Errno::EMFILE | Errno::ENFILE => {
            (K::Limit, true, "too many open files, and a lock needs two; raise the limit (ulimit -n)")
        }
        Errno::ENAMETOOLONG => (K::Config, false, "the path is too long; use a directory with a shorter one"),
        Errno::EBADF => (
            K::Config,
            false,
            "this mount locks only files that are open for writing; give this user write access to the lock files",
        ),
        Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::ENOTTY => {
            (K::Unsupported, false, "this file system does not support flock; use another one")
        }
        Errno::ESTALE => (K::Unavailable, true, "the file was removed on the server; try again"),
        Errno::EIO | Errno::ETIMEDOUT | Errno::EAGAIN | Errno::ENOMEM | Errno::ENOTCONN | Errno::EHOSTDOWN => {
            (K::Unavailable, true, "the file system did not answer; check the disk or the mount and try again")
        }
        _ => (K::Other, false, "see the cause"),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn every_errno_maps_to_its_kind_and_never_to_contention() {
        for (errno, kind, retryable) in [
            (Errno::ENOENT, ErrorKind::StoreNotReady, false),
            (Errno::ENOTDIR, ErrorKind::StoreNotReady, false),
            (Errno::EEXIST, ErrorKind::StoreNotReady, false),
            (Errno::ELOOP, ErrorKind::StoreNotReady, false),
            (Errno::EISDIR, ErrorKind::StoreNotReady, false),
            (Errno::EACCES, ErrorKind::PermissionDenied, false),
            (Errno::EPERM, ErrorKind::PermissionDenied, false),
            (Errno::EROFS, ErrorKind::Full, false),
            (Errno::ENOSPC, ErrorKind::Full, false),
            (Errno::EDQUOT, ErrorKind::Limit, false),
            (Errno::ENOLCK, ErrorKind::Limit, true),
            (Errno::EMFILE, ErrorKind::Limit, true),
            (Errno::ENFILE, ErrorKind::Limit, true),
            (Errno::ENAMETOOLONG, ErrorKind::Config, false),
            (Errno::EBADF, ErrorKind::Config, false),
            (Errno::ENOSYS, ErrorKind::Unsupported, false),
            (Errno::EOPNOTSUPP, ErrorKind::Unsupported, false),
            (Errno::ESTALE, ErrorKind::Unavailable, true),
            (Errno::EIO, ErrorKind::Unavailable, true),
            (Errno::EDEADLK, ErrorKind::Other, false),
        ] {
            let error = at("lock", Path::new("/locks/etl.lock"), errno);
            assert_eq!((error.kind(), error.is_retryable(), error.is_ambiguous()), (kind, retryable, false), "{errno}");
            let text = error.to_string();
            assert!(text.starts_with("cannot lock /locks/etl.lock: "), "{text}");
            assert!(error.source().is_some_and(|s| !text.contains(&s.to_string())), "{text} repeats its source");
        }
    }
}
