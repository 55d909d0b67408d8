#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub use lock_core::*;

#[cfg(feature = "dynamo")]
#[cfg_attr(docsrs, doc(cfg(feature = "dynamo")))]
pub use lock_dynamo as dynamo;
#[cfg(feature = "files")]
#[cfg_attr(docsrs, doc(cfg(feature = "files")))]
pub use lock_efs as files;
pub use lock_migrate as migrate;
#[cfg(feature = "object")]
#[cfg_attr(docsrs, doc(cfg(feature = "object")))]
pub use lock_object as object;
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use lock_postgres as postgres;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use lock_redis as redis;

/// Returns the built-in stores, by the schemes of their config strings.
///
/// A known store that is not built in is an error that names the feature to add. Each registry has
/// its own `memory:` store: clients exclude each other there only if they share one registry.
pub fn registry() -> Registry {
    let registry = Registry::new().with(memory::MemoryFactory::default());
    #[cfg(feature = "files")]
    let registry = registry.with(lock_efs::FileFactory);
    #[cfg(feature = "dynamo")]
    let registry = registry.with(lock_dynamo::DynamoFactory);
    #[cfg(feature = "object")]
    let registry = registry.with(lock_object::ObjectFactory);
    #[cfg(feature = "postgres")]
    let registry = registry.with(lock_postgres::PostgresFactory);
    #[cfg(feature = "redis")]
    let registry = registry.with(lock_redis::RedisFactory);
    let registry = KNOWN.iter().fold(registry, |registry, (scheme, feature)| {
        registry.known_but_absent(*scheme, format!("build with the cargo feature \"{feature}\""))
    });
    registry.clone().with(migrate::MigrationFactory::new(registry))
}

/// All schemes, with the features that add them.
const KNOWN: &[(&str, &str)] = &[
    ("file", "files"),
    ("efs", "files"),
    ("dynamodb", "dynamo"),
    ("s3", "object"),
    ("gs", "object"),
    ("az", "object"),
    ("postgres", "postgres"),
    ("postgresql", "postgres"),
    ("redis", "redis"),
    ("rediss", "redis"),
    ("redis+unix", "redis"),
    ("redis+sentinel", "redis"),
    ("rediss+sentinel", "redis"),
    ("redis+cluster", "redis"),
    ("rediss+cluster", "redis"),
    ("redis+quorum", "redis"),
    ("rediss+quorum", "redis"),
];

/// Opens the store that `config` describes.
///
/// `config` is a config string, such as `file:///var/lib/app/locks?require=fencing`, or
/// [`Settings`](config::Settings) from a configuration file (feature `serde`).
///
/// # Errors
/// As [`Registry::open`].
///
/// # Cancel safety
/// Cancel safe: anything already opened is closed again.
pub async fn open(config: impl TryInto<ConfigString, Error: Into<Error>> + Send) -> Result<Locker, Error> {
    registry().open(config).await
}

/// Provides the same locks to code without an async runtime; see [`lock_core::blocking`].
pub mod blocking {
    pub use lock_core::blocking::*;

    use crate::{ConfigString, Error};

    /// Opens the store that `config` describes, for use from threads; see [`open`](crate::open).
    ///
    /// ```
    /// # fn main() -> Result<(), onelock::Error> {
    /// let locker = onelock::blocking::open("memory:?ttl=20s")?;
    /// locker.acquire("nightly-etl")?.release()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Registry::open`](crate::Registry::open); also if no thread can be started.
    pub fn open(config: impl TryInto<ConfigString, Error: Into<Error>> + Send) -> Result<Locker, Error> {
        Locker::open(&crate::registry(), config)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(not(feature = "dynamo"))]
    #[tokio::test]
    async fn an_absent_store_is_refused_with_the_feature_to_add() {
        let error = super::open("dynamodb://locks").await.unwrap_err();
        assert_eq!(error.kind(), super::ErrorKind::Unsupported);
        assert!(error.to_string().ends_with("build with the cargo feature \"dynamo\""), "{error}");
    }

    #[cfg(feature = "object")]
    #[tokio::test]
    async fn a_bucket_is_opened_without_a_request() {
        for url in ["s3://b/p?region=eu-west-1", "az://account/container/p"] {
            let locker = super::open(format!("{url}{}require=fencing,list", if url.contains('?') { '&' } else { '?' }));
            assert_eq!(locker.await.unwrap().store(), url);
        }
    }

    #[cfg(feature = "dynamo")]
    #[tokio::test]
    async fn a_table_is_opened_without_a_request() {
        let locker = super::open("dynamodb://locks?region=eu-west-1&require=fencing,break").await.unwrap();
        assert_eq!(locker.store(), "dynamodb://locks?region=eu-west-1");
    }
}

#[cfg(all(doctest, feature = "dynamo", feature = "files", feature = "redis", feature = "serde"))]
mod pages;
