//! `onelock doctor` and its second process

use std::time::Duration;

use clap::Args;
use lock_core::LockName;

use super::{
    StoreArgs,
    values::{duration_with_unit, lock_name},
};

/// Which store, and how to say it.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// One JSON object, for programs.
    #[arg(long)]
    pub(crate) json: bool,

    /// Also meet another host that runs the same command on the same store at the same time, and
    /// see whether the two exclude each other.
    #[arg(long)]
    pub(crate) peer: bool,

    /// How long to wait for it.
    #[arg(long, requires = "peer", value_name = "DURATION", default_value = "2m", value_parser = duration_with_unit)]
    pub(crate) within: Duration,
}

/// What `doctor` tells its other process; the store comes in `$ONELOCK_URL`.
#[derive(Debug, Args)]
pub(crate) struct SecondProcessArgs {
    #[arg(value_parser = lock_name)]
    pub(crate) name: LockName,
}
