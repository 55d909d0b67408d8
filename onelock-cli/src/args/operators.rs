//! Arguments of `onelock status`, `list`, `break` and `sweep`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use lock_core::LockName;

use super::{
    StoreArgs,
    values::{duration_with_unit, lock_name},
};

/// The lock to show, and the form of the answer.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Print one JSON object, for programs.
    #[arg(long)]
    pub(crate) json: bool,

    /// Name of the lock.
    #[arg(value_parser = lock_name)]
    pub(crate) name: LockName,
}

/// The locks to list, and the form of the answer.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Print one JSON object a line, for programs.
    #[arg(long)]
    pub(crate) json: bool,

    /// List only names that begin with this prefix.
    #[arg(default_value = "")]
    pub(crate) prefix: String,
}

/// The lock to break, as the operator saw it.
#[derive(Debug, Args)]
pub(crate) struct BreakArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Version that `onelock status` showed; if the lock has changed since, it is not broken.
    #[arg(long)]
    pub(crate) version: String,

    // Not a documentation comment: rustdoc would read the default as a link.
    #[arg(long, value_name = "TEXT", help = "Name of the operator, which the holder is told [default: user@host]")]
    pub(crate) by: Option<String>,

    /// Name of the lock.
    #[arg(value_parser = lock_name)]
    pub(crate) name: LockName,
}

/// The lock files to remove.
#[derive(Debug, Args)]
pub(crate) struct SweepArgs {
    /// Clean up after names that were not used for this long, such as 90d; choose more than the
    /// interval between two runs of the rarest job.
    #[arg(long, value_name = "DURATION", value_parser = duration_with_unit, default_value = "30d")]
    pub(crate) idle: Duration,

    /// Only print what would be removed or emptied.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Directory of the locks.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
}
