//! Fenced writes to a file, which is replaced as a whole or not at all.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use crate::{
    fencing::Stale,
    types::{FencingToken, LeaseId},
};

/// Replaces the file at `path` by `content`, unless a later holder has written it. Readers see the
/// old content or the new content, also after a crash, and never a part of it.
///
/// The file `PATH.fence` stores the largest token, and is locked during the check and the
/// replacement. All writers have to use this function. On NFS the lock also works between hosts.
///
/// This function blocks on the disk, and while another writer holds that lock, even if that writer
/// is frozen. In async code, call it in `spawn_blocking`.
///
/// # Errors
/// Of kind [`io::ErrorKind::PermissionDenied`], with [`Stale`] inside (see [`stale`]), if a later
/// holder has written the file. Otherwise an error of the file system. The file is then unchanged.
pub fn replace(path: &Path, token: FencingToken, content: &[u8]) -> io::Result<()> {
    let new = Temporary(beside(path, &format!(".{}.new", LeaseId::random())));
    let mut file = File::create_new(&new.0)?;
    file.write_all(content)?;
    file.sync_all()?;
    let mut fence = File::options().read(true).write(true).create(true).truncate(false).open(beside(path, ".fence"))?;
    fence.lock()?;
    let mut text = String::new();
    fence.read_to_string(&mut text)?;
    let seen = match text.trim() {
        "" => None,
        number => Some(number.parse().ok().and_then(FencingToken::new).ok_or_else(|| corrupt(path))?),
    };
    if let Some(seen) = seen.filter(|seen| *seen > token) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, Stale { token, seen }));
    }
    // The fence first: after a crash in between, the file is old and the fence is high, which is
    // safe. The text always has the same length, so it overwrites the old one.
    fence.seek(SeekFrom::Start(0))?;
    fence.write_all(format!("{:016}\n", token.get()).as_bytes())?;
    fence.sync_data()?;
    fs::rename(&new.0, path)?;
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// Returns the refusal inside an error of [`replace`], if it is one.
pub fn stale(error: &io::Error) -> Option<Stale> {
    error.get_ref()?.downcast_ref().copied()
}

/// A temporary file, removed unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn corrupt(path: &Path) -> io::Error {
    let fence = beside(path, ".fence");
    let message = format!(
        "{} contains no fencing token; write the largest token into it that may have been used",
        fence.display()
    );
    io::Error::new(io::ErrorKind::InvalidData, message)
}
