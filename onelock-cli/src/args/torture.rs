//! Arguments of `onelock torture` and of its workers.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    StoreArgs,
    values::{duration, duration_with_unit, number},
};

/// Test a store. Exit code 0 if every guarantee was kept, 1 if one was broken, 69 if no lock was
/// ever acquired.
///
/// The run uses names that begin with "onelock-torture/" and a random part, and touches nothing
/// else.
#[derive(Debug, Args)]
pub(crate) struct TortureArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Length of the run: a duration such as 5m, or a number of seconds.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, allow_hyphen_values = true)]
    pub(crate) time: Duration,

    /// Number of processes that contend at a time, each for several locks.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 8,
        value_parser = number(1, u32::MAX),
        allow_hyphen_values = true
    )]
    pub(crate) processes: u32,

    /// Number of locks, some of which are more contended than others.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 8,
        value_parser = number(1, u32::MAX),
        allow_hyphen_values = true
    )]
    pub(crate) names: u32,

    /// Ttl of the locks, without effect on files; processes are frozen or cut off for up to twice
    /// as long.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "2s",
        value_parser = duration_with_unit,
        allow_hyphen_values = true
    )]
    pub(crate) ttl: Duration,

    /// Seed that repeats the choices of an earlier run, though not its timing [default: random].
    #[arg(long, value_name = "SEED", value_parser = number(0, u64::MAX), allow_hyphen_values = true)]
    pub(crate) seed: Option<u64>,

    /// Print the report as one JSON object, for programs.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the parent passes to a worker; the store comes in `$ONELOCK_URL`.
#[derive(Debug, Args)]
pub(crate) struct TortureWorkerArgs {
    #[arg(long)]
    pub(crate) directory: PathBuf,
    #[arg(long)]
    pub(crate) prefix: String,
    #[arg(long)]
    pub(crate) names: u32,
    #[arg(long, value_parser = duration_with_unit)]
    pub(crate) ttl: Duration,
    #[arg(long)]
    pub(crate) number: u64,
    #[arg(long)]
    pub(crate) seed: u64,
    #[arg(long)]
    pub(crate) parent: i32,
}
