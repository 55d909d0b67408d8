//! A protected resource that compares fencing tokens: it refuses a write whose token is smaller
//! than one that it has accepted.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::Path,
    time::Duration,
};

use super::shared::now;

/// The decision about a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) at: Duration,
    pub(super) accepted: bool,
}

/// Offers a write with `token`; returns `None` if another process is using the resource. That
/// process may be frozen, and waiting for it would block this one, too.
pub(super) fn offer(path: &Path, token: u64) -> io::Result<Option<Decision>> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => decide(&mut file, token).map(Some),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn decide(file: &mut File, token: u64) -> io::Result<Decision> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let largest: u64 = text.trim().parse().unwrap_or_default();
    let accepted = token >= largest;
    if accepted {
        // The length is fixed, so that a killed writer leaves either the old or the new number.
        file.rewind()?;
        file.write_all(format!("{token:020}").as_bytes())?;
    }
    // Read under the resource's lock, so that times are in the order of the decisions.
    Ok(Decision { at: now(), accepted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_token_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resource");
        let accepted = |token| offer(&path, token).unwrap().unwrap().accepted;
        assert!(accepted(5) && accepted(5) && accepted(7));
        assert!(!accepted(6));
        assert!(accepted(7));
        let busy = File::open(&path).unwrap();
        busy.lock().unwrap();
        assert_eq!(offer(&path, 8).unwrap(), None);
    }
}
