//! Keeps the floor of the fencing tokens: the largest token of all names that were removed.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use lock_core::{Error, FencingToken};

use crate::{error, lockfile, mode::Mode};

const FLOOR: &str = ".onelock-floor";

/// Ensures that tokens of names without a record begin above `token`.
pub(crate) fn raise(directory: &Path, token: FencingToken, mode: Mode) -> Result<(), Error> {
    let path = directory.join(FLOOR);
    if read(directory)?.is_some_and(|floor| floor >= token) {
        return Ok(());
    }
    let new = directory.join(format!("{FLOOR}-new"));
    let write = || {
        let mut file = File::create(&new)?;
        if let Ok(found) = file.metadata() {
            lockfile::widen(&file, &found, mode, &new);
        }
        writeln!(file, "{}", token.get())?;
        // The floor must be on disk before the record with this token is removed.
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().map_err(|e| error::at("write", &path, e))
}

/// Returns the token that tokens of names without a record must exceed.
pub(crate) fn read(directory: &Path) -> Result<Option<FencingToken>, Error> {
    let path = directory.join(FLOOR);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().parse().ok().and_then(FencingToken::new)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(error::at("read", &path, e)),
    }
}
