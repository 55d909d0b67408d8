//! `onelock status`, `list`, `break` and `sweep`

use std::{path::PathBuf, time::Duration};

use clap::Args;
use lock_core::LockName;

use super::{
    StoreArgs,
    values::{duration_with_unit, lock_name},
};

/// Which lock, and how to say it.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// One JSON object, for programs.
    #[arg(long)]
    pub(crate) json: bool,

    /// The name of the lock.
    #[arg(value_parser = lock_name)]
    pub(crate) name: LockName,
}

/// Which locks, and how to say it.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// One JSON object a line, for programs.
    #[arg(long)]
    pub(crate) json: bool,

    /// Only names that begin with this.
    #[arg(default_value = "")]
    pub(crate) prefix: String,
}

/// Which lock, as it was seen.
#[derive(Debug, Args)]
pub(crate) struct BreakArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// The version that `onelock status` showed: nothing is broken if the lock has changed since.
    #[arg(long)]
    pub(crate) version: String,

    // Not a documentation comment: rustdoc would read the default as a link.
    #[arg(long, value_name = "TEXT", help = "Who breaks it, for the holder to read [default: user@host]")]
    pub(crate) by: Option<String>,

    /// The name of the lock.
    #[arg(value_parser = lock_name)]
    pub(crate) name: LockName,
}

/// What to remove.
#[derive(Debug, Args)]
pub(crate) struct SweepArgs {
    /// Remove names that were not used for this long, such as "30d"; longer than between two runs
    /// of the rarest job.
    #[arg(long, value_name = "DURATION", value_parser = duration_with_unit, default_value = "30d")]
    pub(crate) idle: Duration,

    /// Only say what would be removed.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// The directory of the locks.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
}
