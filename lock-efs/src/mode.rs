//! The permissions of files and directories.

use std::{
    fs::{File, Metadata, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::Path,
};

use lock_core::{Error, ErrorKind};
use nix::unistd::Uid;

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

    /// Returns the permissions of a file that all users of `model` need: of a lock file in its
    /// directory, or of a record beside its lock file.
    ///
    /// Without a configured mode, the users that may write to `model` may write to the file. The
    /// umask of the process that comes first does not decide for all later ones.
    pub(crate) fn sharing(self, model: &Metadata) -> Sharing {
        // Under the sticky bit every user keeps to its own files.
        let sticky = model.is_dir() && model.mode() & 0o1000 != 0;
        let shared = match self.exact || sticky {
            true => 0,
            false => [0o060, 0o006].into_iter().filter(|class| model.mode() & class & 0o222 != 0).sum(),
        };
        Sharing { file: self.file | shared, exact: self.exact, owner: model.uid(), group: model.gid() }
    }

    /// Returns the permissions to create a lock file with that other programs use too, as
    /// `flock(1)` does. The umask applies.
    pub(crate) fn plain_file(self) -> u32 {
        if self.exact { self.file } else { 0o666 }
    }

    /// Returns the permissions of a file beside `model`, a lock file or directory that other
    /// programs use too. Users who may read the model may read the file, and users who may write to
    /// a lock file may write to it.
    pub(crate) fn sharing_of_plain(self, model: &Metadata) -> Sharing {
        let shared = model.mode() & if model.is_dir() { 0o044 } else { 0o066 };
        let file = if self.exact { self.file } else { self.file | shared };
        Sharing { file, exact: self.exact, owner: model.uid(), group: model.gid() }
    }

    /// Returns the permissions of a directory that is created in `parent`.
    ///
    /// Without a configured mode it is private: to the user who creates it, and if that is root, to
    /// the owner of `parent`.
    pub(crate) fn sharing_of_directory(self, parent: &Metadata) -> Sharing {
        Sharing { file: self.directory, exact: self.exact, owner: parent.uid(), group: parent.gid() }
    }
}

/// The permissions of a file beside others, or of a directory in its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sharing {
    pub(crate) file: u32,
    exact: bool,
    owner: u32,
    group: u32,
}

impl Sharing {
    /// Also lets all users read the file.
    pub(crate) fn readable(self) -> Self {
        Self { file: self.file | 0o444, ..self }
    }

    /// Gives the permissions to `file`, which this process has just created.
    ///
    /// A file of root gets the owner of its model, who could not use it otherwise.
    pub(crate) fn apply(self, file: &File, found: &Metadata, path: &Path) {
        let owner = (Uid::effective().is_root() && found.uid() != self.owner).then_some(self.owner);
        let shared = self.file & 0o060 != 0 || owner.is_some();
        let group = (shared && found.gid() != self.group).then_some(self.group);
        let mut mode = self.file;
        if (owner.is_some() || group.is_some())
            && let Err(error) = fchown(file, owner, group)
        {
            tracing::debug!(file = %path.display(), %error, "cannot give the file the owner and group of its \
                directory");
            if !self.exact {
                // Only the group of the directory was to share the file, and this is another group.
                mode = (mode & !0o070) | ((mode & 0o007) << 3);
            }
        }
        let missing = mode & !found.mode();
        if missing != 0 {
            let wanted = Permissions::from_mode((found.mode() | missing) & 0o7777);
            if let Err(error) = file.set_permissions(wanted) {
                tracing::debug!(file = %path.display(), %error, "cannot set the mode of the file");
            }
        }
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
