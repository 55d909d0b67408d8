//! Keeps the floor of the fencing tokens: the largest token of all names that were removed.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use lock_core::{Error, ErrorKind, FencingToken};
use nix::fcntl::{FlockArg, OFlag};

use crate::{
    error,
    lockfile::try_flock,
    mode::Mode,
    open::{self, Access, Opened},
    record,
};

const FLOOR: &str = ".onelock-floor";
const HEAD: &str = "onelock/1 floor ";
/// A floor is far shorter. The file is read no further.
const MAX_BYTES: usize = 256;

/// The floor, locked by the one sweep that may raise it.
///
/// The floor is written through the locked descriptor. So an NFS server refuses a write that the
/// network delivers after the lock was lost, which would lower the floor of a later sweep.
#[derive(Debug)]
pub(crate) struct LockedFloor {
    file: File,
    path: PathBuf,
    floor: Option<FencingToken>,
}

impl LockedFloor {
    /// Locks the floor of `directory`, and creates it if it is missing.
    pub(crate) fn lock(directory: &Path, mode: Mode) -> Result<Self, Error> {
        let path = directory.join(FLOOR);
        let fail = |e: io::Error| error::at("open", &path, e);
        let sharing = mode.sharing(&fs::metadata(directory).map_err(fail)?).readable();
        let Opened { file, found, created } = open::or_create(&path, sharing.file, OFlag::empty()).map_err(fail)?;
        if created {
            sharing.apply(&file, &found, &path);
        }
        if !try_flock(&file, FlockArg::LockExclusiveNonblock).map_err(|e| error::at("lock", &path, e))? {
            let what = format!("another sweep of {} is running; try again when it has ended", directory.display());
            return Err(Error::new(ErrorKind::Unavailable, what).with_ambiguous(false));
        }
        let floor = parse(&file, &path)?;
        Ok(Self { file, path, floor })
    }

    /// Ensures that tokens of names without a record begin above `token`.
    pub(crate) fn raise(&mut self, token: FencingToken) -> Result<(), Error> {
        if self.floor.is_some_and(|floor| floor >= token) {
            return Ok(());
        }
        let line = format!("{HEAD}{:020}\n", token.get());
        // One write of a fixed size, so that readers see the old floor or the new one. It must be
        // on disk before the record with this token is removed.
        let written = self.file.write_all_at(line.as_bytes(), 0).and_then(|()| self.file.sync_all());
        written.map_err(|e| error::at("write", &self.path, e))?;
        self.floor = Some(token);
        Ok(())
    }
}

/// Returns the token that tokens of names without a record must exceed. Reads with the `flags` of
/// the medium.
pub(crate) fn read(directory: &Path, flags: OFlag) -> Result<Option<FencingToken>, Error> {
    let path = directory.join(FLOOR);
    match open::existing(&path, Access::Read, flags) {
        Ok(opened) => parse(&opened.file, &path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(error::at("read", &path, e)),
    }
}

fn parse(file: &File, path: &Path) -> Result<Option<FencingToken>, Error> {
    let bytes = open::read_start(file, MAX_BYTES).map_err(|e| error::at("read", path, e))?;
    if !record::is_ours(&bytes) {
        return Err(error::stranger(path));
    }
    let text = std::str::from_utf8(&bytes).ok().and_then(|text| text.lines().next()?.strip_prefix(HEAD));
    let floor = text.and_then(|text| text.trim().parse().ok()).and_then(FencingToken::new);
    if floor.is_none() && !bytes.is_empty() {
        tracing::warn!(file = %path.display(), "the floor of the fencing tokens is invalid; new names get tokens \
            from the clock alone");
    }
    Ok(floor)
}
