//! The options that choose a store.

use std::path::PathBuf;

use clap::Args;

// Not a documentation comment: clap would make it the help of every command that has these options.
// Which store; without any of it, a directory of this user's own.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct StoreArgs {
    /// The store, such as file:///var/lib/app/locks [default: $ONELOCK_URL or what the file
    /// $ONELOCK_URL_FILE says, else a directory of this user's own].
    #[arg(long, value_name = "URL", conflicts_with = "url_file")]
    pub(crate) url: Option<String>,

    /// A file whose one line is the store, for one with a password: everybody who may run ps can
    /// read an argument.
    #[arg(long, value_name = "FILE")]
    pub(crate) url_file: Option<PathBuf>,
}
