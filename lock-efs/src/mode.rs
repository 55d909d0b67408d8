//! The permissions of files and directories.

use lock_core::{Error, ErrorKind};

/// The permissions of files and directories that are created.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mode {
    pub(crate) file: u32,
    pub(crate) directory: u32,
    /// Whether the permissions apply whatever the umask.
    pub(crate) exact: bool,
}

impl Mode {
    pub(crate) fn new(mode: Option<u32>) -> Result<Self, Error> {
        let Some(file) = mode else { return Ok(Self { file: 0o600, directory: 0o700, exact: false }) };
        if file & 0o600 != 0o600 || file & !0o666 != 0 {
            return Err(Error::new(
                ErrorKind::Config,
                format!("mode={file:o} is not valid for lock files; use 600, 660 or 666"),
            ));
        }
        // Readers also need search permission. The set-group-ID bit gives new files the directory's
        // group.
        let search = (file & 0o444) >> 2;
        Ok(Self { file, directory: 0o2000 | file | search, exact: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_adds_search_permission_and_setgid_to_directories() {
        let directory = |mode| Mode::new(mode).map(|m| m.directory).map_err(|e| e.kind());
        assert_eq!(directory(None), Ok(0o700));
        assert_eq!(directory(Some(0o660)), Ok(0o2770));
        assert_eq!(directory(Some(0o644)), Ok(0o2755));
        assert_eq!(directory(Some(0o440)), Err(ErrorKind::Config));
        assert_eq!(directory(Some(0o777)), Err(ErrorKind::Config));
    }
}
