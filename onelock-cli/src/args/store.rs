//! The options that choose a store.

use std::path::PathBuf;

use clap::Args;

// Not a documentation comment: clap would make it the help of every command that has these options.
// Without any of them the store is a private directory of the current user.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct StoreArgs {
    /// Store, such as file:///var/lib/app/locks [default: $ONELOCK_URL, else the content of the
    /// file $ONELOCK_URL_FILE, else a private directory of the current user].
    #[arg(long, value_name = "URL", conflicts_with = "url_file")]
    pub(crate) url: Option<String>,

    /// File whose only line is the store; use it if the store has a password, because ps shows the
    /// arguments of a command to all users.
    #[arg(long, value_name = "FILE")]
    pub(crate) url_file: Option<PathBuf>,

    /// The lock file, if the lock's name is a path. See [`Target`](crate::target::Target).
    #[arg(skip)]
    pub(crate) lock_file: Option<PathBuf>,
}
