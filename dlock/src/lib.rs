#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub use lock_core::*;

#[cfg(feature = "efs")]
#[cfg_attr(docsrs, doc(cfg(feature = "efs")))]
pub use lock_efs as efs;

/// The stores that are built in, by the schemes of their config strings; those that are known but left out say which feature adds them.
///
/// A registry has its own `memory:` store, so keep one for as long as its locks are to exclude each other.
pub fn registry() -> Registry {
    let registry = Registry::new().with(memory::MemoryFactory::default());
    #[cfg(feature = "efs")]
    let registry = registry.with(lock_efs::FileFactory);
    ["file", "efs"]
        .into_iter()
        .fold(registry, |registry, scheme| registry.known_but_absent(scheme, "build with the cargo feature \"efs\""))
}

/// Opens the store that a config string describes, such as `file:///var/lib/app/locks?require=fencing`.
///
/// # Errors
/// As [`Registry::open`].
///
/// # Cancel safety
/// Cancel safe: what was opened is closed.
pub async fn open(config: &str) -> Result<Locker, Error> {
    registry().open(config).await
}
