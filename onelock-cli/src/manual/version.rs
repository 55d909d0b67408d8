//! The answers of `onelock -V` and `onelock --version`.

use std::sync::LazyLock;

/// The cargo features of this build.
const FEATURES: &[(&str, bool)] = &[
    ("redis", cfg!(feature = "redis")),
    ("dynamo", cfg!(feature = "dynamo")),
    ("postgres", cfg!(feature = "postgres")),
    ("object", cfg!(feature = "object")),
    ("torture", cfg!(feature = "torture")),
];

/// The version, for the first line and for man pages.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version with the commit and the features of this build.
pub(super) static LONG: LazyLock<String> = LazyLock::new(|| {
    let commit = option_env!("ONELOCK_COMMIT").unwrap_or("unknown");
    let named = |wanted: bool| {
        let names: Vec<_> = FEATURES.iter().filter(|(_, on)| *on == wanted).map(|(name, _)| *name).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    format!("{VERSION}\ncommit: {commit}\nfeatures: {}\nleft out: {}", named(true), named(false))
});
