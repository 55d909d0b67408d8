//! What a file backend needs to know.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use lock_core::{Error, ErrorKind, backend::Backend, config::StoreConfig, registry::BackendFactory};

use crate::{backend::FileBackend, calls, dir, mount::Medium};

/// A directory of locks and how to treat it; [`build`](Self::build) opens it.
///
/// ```
/// # fn main() -> Result<(), lock_core::Error> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("locks");
/// let backend = lock_efs::FileConfig::new(dir).mode(0o660).build()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileConfig {
    directory: PathBuf,
    create: bool,
    mode: Option<u32>,
    require_nfs: bool,
}

impl FileConfig {
    /// The locks in `directory`, which is created when missing, private to this user.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), create: true, mode: None, require_nfs: false }
    }

    /// Whether to create a missing directory, and its parents. Say no for a mount point: what is missing then is the mount, and locks in
    /// the empty directory under it would exclude nobody.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// The permissions of the files, for a directory that several users share: `0o660` for a group, `0o666` for all. The umask does
    /// not take from it.
    ///
    /// A directory that is created gets the same, with search permission and the set-group-ID bit. Without this option files have `0o600`
    /// and directories `0o700`, less the umask. A directory for several users must not have the sticky bit, under which one
    /// user cannot replace another's record.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Refuses a directory that is not on NFS, for locks that several hosts share: a mount that is missing would leave each host with
    /// a directory of its own. Default no.
    #[must_use]
    pub fn require_nfs(mut self, require_nfs: bool) -> Self {
        self.require_nfs = require_nfs;
        self
    }

    /// Opens the directory. Blocks; on NFS for as long as the server does not answer.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a mode without `0o600` or beyond `0o666`; [`ErrorKind::StoreNotReady`] for an NFS mount on
    /// which locks would not be safe, with the mount option to change; that,
    /// [`ErrorKind::PermissionDenied`] or [`ErrorKind::Full`] when the directory is not there, or is not one that can be written to.
    pub fn build(self) -> Result<FileBackend, Error> {
        let mode = Mode::new(self.mode)?;
        if self.require_nfs {
            dir::must_be_nfs(&self.directory)?;
        }
        let directory = dir::prepare(&self.directory, self.create, mode)?;
        let medium = Medium::of(&directory)?;
        if medium == Medium::Unknown {
            tracing::warn!(
                directory = %directory.display(),
                "locks on this network file system can be lost without notice; use NFSv4 or a local directory"
            );
        }
        Ok(FileBackend::new(directory, mode, medium))
    }
}

/// Opens `file:` and `efs:` config strings: `file:///var/lib/app/locks`, `efs:///mnt/efs/locks`, with the options `mode` (as
/// [`FileConfig::mode`], octal) and `create` (`true`, the default, or `false`).
///
/// On an NFS mount the two are the same. Anywhere else `efs:` is refused, unless `allow_local=true`, for a laptop or a test.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileFactory;

#[async_trait]
impl BackendFactory for FileFactory {
    fn schemes(&self) -> &[&str] {
        &["efs", "file"]
    }

    async fn open(&self, config: &mut StoreConfig) -> Result<Arc<dyn Backend>, Error> {
        let octal = |text: &str| u32::from_str_radix(text, 8).map_err(|_| "write it in octal, such as 660".to_owned());
        let mut files = FileConfig::new(config.take_directory()?);
        if let Some(mode) = config.take_with("mode", octal)? {
            files = files.mode(mode);
        }
        if let Some(create) = config.take_bool("create")? {
            files = files.create(create);
        }
        if config.scheme() == "efs" {
            files = files.require_nfs(!config.take_bool("allow_local")?.unwrap_or(false));
        }
        config.finish()?;
        // Opening may hang with the network, and then the runtime must not.
        Ok(Arc::new(calls::once(move || files.build()).await?))
    }
}

/// The permissions of what is created.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mode {
    pub(crate) file: u32,
    pub(crate) directory: u32,
    /// The umask is not to take from it.
    pub(crate) exact: bool,
}

impl Mode {
    fn new(mode: Option<u32>) -> Result<Self, Error> {
        let Some(file) = mode else { return Ok(Self { file: 0o600, directory: 0o700, exact: false }) };
        if file & 0o600 != 0o600 || file & !0o666 != 0 {
            return Err(Error::new(
                ErrorKind::Config,
                format!("mode={file:o} does not suit lock files; use 600, 660 or 666"),
            ));
        }
        // Who may read may search; who shares by group shares its files by group.
        let search = (file & 0o444) >> 2;
        Ok(Self { file, directory: 0o2000 | file | search, exact: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_gives_the_directory_search_permission_and_the_group() {
        let directory = |mode| Mode::new(mode).map(|m| m.directory).map_err(|e| e.kind());
        assert_eq!(directory(None), Ok(0o700));
        assert_eq!(directory(Some(0o660)), Ok(0o2770));
        assert_eq!(directory(Some(0o644)), Ok(0o2755));
        assert_eq!(directory(Some(0o440)), Err(ErrorKind::Config));
        assert_eq!(directory(Some(0o777)), Err(ErrorKind::Config));
    }
}
