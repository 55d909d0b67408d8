//! `onelock torture` and its workers

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    StoreArgs,
    values::{duration, duration_with_unit},
};

/// Which store, and how hard. Exit code 0 when every promise was kept, 1 when one was broken, 69
/// when no lock was ever had.
///
/// Names that begin with "onelock-torture/" and a random part are used, and nothing else is
/// touched.
#[derive(Debug, Args)]
pub(crate) struct TortureArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// For how long.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(crate) time: Duration,

    /// How many processes contend at a time, each for several locks.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) processes: u32,

    /// For how many locks, some of which are wanted more than others.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) names: u32,

    /// The ttl of the locks; files have none. Processes are frozen and cut off for up to twice as
    /// long.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration_with_unit)]
    pub(crate) ttl: Duration,

    /// Repeats the choices of an earlier run (though not its timing) [default: random].
    #[arg(long, value_name = "SEED")]
    pub(crate) seed: Option<u64>,

    /// The report as one JSON object, for programs.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the parent tells a process of `torture`; the store comes in `$ONELOCK_URL`.
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
