//! Opens files in a directory where other users may have put anything.
//!
//! All opens of this crate are here. None follows a link, blocks on a pipe, becomes a controlling
//! terminal or truncates, and each returns regular files only, or directories where it says so.

use std::{
    ffi::OsStr,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

use nix::{dir::Dir, errno::Errno, fcntl::OFlag, unistd::Uid};

/// How often opening starts over because the file appears and disappears in between.
const TRIES: usize = 16;

/// What the file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    ReadWrite,
}

/// A regular file that was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) found: Metadata,
    /// Whether this call created the file.
    pub(crate) created: bool,
}

/// Opens the file at `path`, which must exist.
pub(crate) fn existing(path: &Path, access: Access, flags: OFlag) -> io::Result<Opened> {
    let mut options = OpenOptions::new();
    options.read(true).write(access == Access::ReadWrite);
    regular(path, &mut options, flags, false)
}

/// Opens the file at `path` for reading and writing, and creates it with `mode` if it is missing.
///
/// Opened without `O_CREAT` first: the kernel refuses that flag for another user's file in a
/// directory with the sticky bit (`fs.protected_regular`).
pub(crate) fn or_create(path: &Path, mode: u32, flags: OFlag) -> io::Result<Opened> {
    existing_or_new(path, mode, flags, || existing(path, Access::ReadWrite, flags))
}

/// Opens the file at `path` as [`existing`], or a directory.
pub(crate) fn existing_or_directory(path: &Path, access: Access, flags: OFlag) -> io::Result<Opened> {
    let mut options = OpenOptions::new();
    let opened = safely(path, options.read(true).write(access == Access::ReadWrite), flags, false)?;
    if opened.found.is_file() || opened.found.is_dir() { Ok(opened) } else { Err(of_type(&opened.found).into()) }
}

/// Opens the file or directory at `path`, and creates a missing file with `mode`.
pub(crate) fn lockable(path: &Path, mode: u32, access: Access, flags: OFlag) -> io::Result<Opened> {
    existing_or_new(path, mode, flags, || existing_or_directory(path, access, flags))
}

/// Opens what `open_existing` finds at `path`, or creates a file there with `mode`.
fn existing_or_new(
    path: &Path,
    mode: u32,
    flags: OFlag,
    open_existing: impl Fn() -> io::Result<Opened>,
) -> io::Result<Opened> {
    for _ in 0..TRIES {
        match open_existing() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        let mut options = OpenOptions::new();
        match regular(path, options.read(true).write(true).create_new(true).mode(mode), flags, true) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            result => return result,
        }
    }
    Err(Errno::EAGAIN.into())
}

/// Creates the file at `path`, whose name no other process knows.
///
/// Not with `O_EXCL`: NFS servers may store its verifier in the file times, which must show their
/// clock. A file with content or a second name was there before, and is refused.
pub(crate) fn unique(path: &Path, mode: u32) -> io::Result<Opened> {
    let mut options = OpenOptions::new();
    let opened = regular(path, options.read(true).write(true).create(true).mode(mode), OFlag::empty(), true)?;
    if opened.found.len() > 0 || opened.found.nlink() > 1 {
        return Err(Errno::EEXIST.into());
    }
    Ok(opened)
}

/// Opens a directory without access to its content, for questions about its mount.
pub(crate) fn directory(path: &Path) -> io::Result<File> {
    #[cfg(target_os = "linux")]
    let flags = OFlag::O_DIRECTORY | OFlag::O_PATH;
    #[cfg(not(target_os = "linux"))]
    let flags = OFlag::O_DIRECTORY | OFlag::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// Opens the directory at `path`, which this process has just created.
///
/// A user with write access to its parent may have put another directory or a link there since. A
/// directory of another user is refused, and so is one with files that are not of onelock. Another
/// process may have created the directory `next` in it meanwhile, or acquired its first lock.
pub(crate) fn created_directory(path: &Path, next: Option<&OsStr>) -> io::Result<Opened> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let found = file.metadata()?;
    let is_mine = found.uid() == Uid::effective().as_raw();
    let mut entries = Dir::from_fd(file.try_clone()?.into())?;
    let is_new = entries.iter().flatten().all(|entry| {
        let name = entry.file_name().to_bytes();
        is_of_onelock(name) || next.is_some_and(|next| next.as_bytes() == name)
    });
    if !(is_mine && is_new) {
        return Err(Errno::EEXIST.into());
    }
    Ok(Opened { file, found, created: true })
}

fn is_of_onelock(name: &[u8]) -> bool {
    const SUFFIXES: [&[u8]; 6] = [b".lock", b".info", b".prev", b".queue", b".parts", b".fair"];
    matches!(name, b"." | b"..") || name.starts_with(b".onelock-") || SUFFIXES.iter().any(|s| name.ends_with(s))
}

const PAGE: usize = 4096;

/// A buffer for direct reads, which need this alignment on all file systems but NFS.
#[repr(align(4096))]
struct Page([u8; PAGE]);

impl Page {
    fn new() -> Box<Self> {
        Box::new(Self([0; PAGE]))
    }
}

/// Reads the file from its start, at most `limit` bytes.
pub(crate) fn read(mut file: &File, limit: usize) -> io::Result<Vec<u8>> {
    let mut page = Page::new();
    let n = file.read(&mut page.0)?;
    let mut bytes = page.0[..n.min(limit)].to_vec();
    if n == PAGE && limit > PAGE {
        file.take((limit - n) as u64).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Reads the first bytes of the file, at most `limit`, wherever its offset is.
pub(crate) fn read_start(file: &File, limit: usize) -> io::Result<Vec<u8>> {
    if limit > PAGE {
        let mut bytes = vec![0; limit];
        let n = file.read_at(&mut bytes, 0)?;
        bytes.truncate(n);
        return Ok(bytes);
    }
    let mut page = Page::new();
    let n = file.read_at(&mut page.0, 0)?;
    Ok(page.0[..n.min(limit)].to_vec())
}

fn regular(path: &Path, options: &mut OpenOptions, flags: OFlag, created: bool) -> io::Result<Opened> {
    let opened = safely(path, options, flags, created)?;
    if opened.found.is_file() { Ok(opened) } else { Err(of_type(&opened.found).into()) }
}

fn safely(path: &Path, options: &mut OpenOptions, flags: OFlag, created: bool) -> io::Result<Opened> {
    let safe = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = options.custom_flags((safe | flags).bits()).open(path).map_err(|e| in_the_way(path).unwrap_or(e))?;
    let found = file.metadata()?;
    Ok(Opened { file, found, created })
}

/// Returns a clear error if `path` names something that is not a regular file. The error of the
/// open may be any other, such as a missing permission.
fn in_the_way(path: &Path) -> Option<io::Error> {
    let found = fs::symlink_metadata(path).ok()?;
    (!found.is_file()).then(|| of_type(&found).into())
}

fn of_type(found: &Metadata) -> Errno {
    match found.file_type() {
        kind if kind.is_symlink() => Errno::ELOOP,
        kind if kind.is_dir() => Errno::EISDIR,
        _ => Errno::ENXIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens elsewhere could follow links, hang or truncate.
    #[test]
    fn no_other_source_file_opens_files() {
        fn sources(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
            for entry in fs::read_dir(directory).expect("a directory of sources") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    sources(&path, found);
                } else if path.file_name().is_some_and(|name| name != "open.rs" && name != "tests.rs") {
                    found.push(path);
                }
            }
        }
        let mut paths = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut paths);
        assert!(paths.len() > 20);
        for path in paths {
            let text = fs::read_to_string(&path).expect("a source file");
            let code = text
                .split("#[cfg(test)]\nmod tests")
                .next()
                .unwrap_or_default()
                .replace("LockFile::", "")
                .replace("PartsFile::", "");
            for call in ["File::open", "File::create", "OpenOptions", "fs::write", "fs::copy"] {
                assert!(!code.contains(call), "{} uses {call}; use open.rs", path.display());
            }
            // Files of the kernel, in /proc and /sys.
            let may_read = ["doctor.rs", "mount.rs", "process.rs"].iter().any(|name| path.ends_with(name));
            let reads = code.contains("fs::read(") || code.contains("fs::read_to_string(");
            assert!(may_read || !reads, "{} reads files; use open.rs", path.display());
        }
    }

    #[test]
    fn a_directory_with_content_was_not_just_created() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("locks");
        fs::create_dir(&path).expect("the directory is writable");
        assert!(created_directory(&path, None).is_ok());
        // Of another process, which found the new directory.
        for file in ["a.lock", "a.info", "a.prev", "a.queue", "a.parts", "a.fair", ".onelock-floor"] {
            fs::write(path.join(file), "").expect("the directory is writable");
        }
        assert!(created_directory(&path, None).is_ok());
        fs::create_dir(path.join("next")).expect("the directory is writable");
        assert!(created_directory(&path, Some(OsStr::new("next"))).is_ok());
        let error = created_directory(&path, None).expect_err("the directory has content");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        fs::remove_dir(path.join("next")).expect("the directory is writable");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("the directory is writable");
        assert!(created_directory(&link, None).is_err(), "a link is not followed");
        fs::write(path.join("mine"), "mine").expect("the directory is writable");
        let error = created_directory(&path, None).expect_err("the directory has content");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_file_that_was_there_is_not_unique() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("a");
        fs::write(&path, "mine").expect("the directory is writable");
        let error = unique(&path, 0o600).expect_err("the file has content");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).expect("the file exists"), "mine");
    }
}
