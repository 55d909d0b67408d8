//! A protected resource that does what every resource should: it refuses a write whose token is
//! older than one that it has seen.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::Path,
    time::Duration,
};

use super::shared::now;

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) at: Duration,
    pub(super) accepted: bool,
}

/// Offers a write with `token`; `None` when another process is at the resource. It may be frozen
/// there, and whoever waited for it would freeze with it.
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
        // Of one length, so that a killed writer leaves the old number or the new one.
        file.rewind()?;
        file.write_all(format!("{token:020}").as_bytes())?;
    }
    // Still under the resource's own lock: the times of decisions are in the order of decisions.
    Ok(Decision { at: now(), accepted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_token_is_refused() {
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
