//! Fenced writes to a file: replaced as a whole, or not at all.

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

/// Replaces the file at `path` by `content`, unless a later holder has written it. Readers see the old content or the new, never half of
/// one, also after a crash.
///
/// `PATH.fence` beside it keeps the largest token, and is locked for the moment of the check and the replacement; all
/// writers have to come through here. It blocks: on the disk, and while another writer is in that moment, even a frozen one. Call it by `spawn_blocking` in
/// async code. On NFS the lock works between hosts, too.
///
/// # Errors
/// Of kind [`io::ErrorKind::PermissionDenied`] with [`Stale`] inside (see [`stale`]) when a later holder was here; else what the
/// file system says. The file is then as it was.
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
    // First the fence: if we crash in between, the file is old and the fence is high, which harms nobody. Always of one length.
    fence.seek(SeekFrom::Start(0))?;
    fence.write_all(format!("{:016}\n", token.get()).as_bytes())?;
    fence.sync_data()?;
    fs::rename(&new.0, path)?;
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// The refusal inside an error of [`replace`].
pub fn stale(error: &io::Error) -> Option<Stale> {
    error.get_ref()?.downcast_ref().copied()
}

/// Removed when it was not renamed.
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
    let message = format!("{} holds no token; write the largest one into it that may have been used", fence.display());
    io::Error::new(io::ErrorKind::InvalidData, message)
}
