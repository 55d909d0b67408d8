//! Arguments of `onelock doctor` and of its second process.

use std::time::Duration;

use clap::Args;
use lock_core::LockName;

use super::{
    StoreArgs,
    values::{duration_with_unit, lock_name},
};

/// The store to check, and the form of the report.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Print one JSON object, for programs.
    #[arg(long)]
    pub(crate) json: bool,

    /// Also test exclusion with another host, which runs the same command on the same store at the
    /// same time.
    #[arg(long)]
    pub(crate) peer: bool,

    /// Longest time to spend on the other host, such as 5m.
    #[arg(
        long,
        requires = "peer",
        value_name = "DURATION",
        default_value = "2m",
        value_parser = duration_with_unit,
        allow_hyphen_values = true
    )]
    pub(crate) within: Duration,
}

/// What `doctor` passes to its second process; the store comes in `$ONELOCK_URL`.
#[derive(Debug, Args)]
pub(crate) struct SecondProcessArgs {
    #[arg(value_parser = lock_name)]
    pub(crate) name: LockName,
}
