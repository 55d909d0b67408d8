//! Opens a file backend from a config string.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{
    Error,
    backend::Backend,
    config::{BackendFactory, StoreConfig},
};

use crate::{config::FileConfig, io_pool, names::Names};

/// Opens `file:` and `efs:` config strings, such as `file:///var/lib/app/locks` and
/// `efs:///mnt/efs/locks`.
///
/// The options are `mode` (as [`FileConfig::mode`], octal), `create` (`true`, the default, or
/// `false`) and `names` (`encoded`, the default, or `plain`).
///
/// On an NFS mount both schemes are the same. On other file systems `efs:` is refused. The option
/// `allow_local=true` accepts it, for a laptop or a test.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileFactory;

#[async_trait]
impl BackendFactory for FileFactory {
    fn schemes(&self) -> &[&str] {
        &["efs", "file"]
    }

    async fn open(&self, config: &mut StoreConfig) -> Result<Arc<dyn Backend>, Error> {
        let files = FileConfig::take(config)?;
        // Opening may hang if the network is away. The runtime must not hang with it.
        Ok(Arc::new(io_pool::once(files.describe(), move || files.build()).await?))
    }

    fn check(&self, config: &mut StoreConfig) -> Result<(), Error> {
        FileConfig::take(config).map(drop)
    }
}

impl FileConfig {
    fn take(config: &mut StoreConfig) -> Result<Self, Error> {
        let octal = |text: &str| u32::from_str_radix(text, 8).map_err(|_| "write it in octal, such as 660".to_owned());
        let mut files = Self::new(config.take_directory()?);
        if let Some(mode) = config.take_with("mode", octal)? {
            files = files.mode(mode);
        }
        if let Some(create) = config.take_bool("create")? {
            files = files.create(create);
        }
        if let Some(names) = config.take_choice("names", &[("encoded", Names::Encoded), ("plain", Names::Plain)])? {
            files = files.names(names);
        }
        if config.scheme() == "efs" {
            files = files.require_nfs(!config.take_bool("allow_local")?.unwrap_or(false));
        }
        config.finish()?;
        Ok(files)
    }
}
