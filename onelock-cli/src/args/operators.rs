//! Arguments of `onelock status`, `list`, `break` and `sweep`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use lock_core::LockName;

use super::{
    StoreArgs,
    values::{duration, duration_with_unit, lock_name, number},
};

/// The lock to show, and the form of the answer.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Print one JSON object, for programs.
    #[arg(long)]
    pub(crate) json: bool,

    /// Name of the lock, or the path of a lock file.
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

    /// Order of the locks: their names, or their ages with the oldest first.
    #[arg(long, value_enum, value_name = "KEY", default_value_t = SortBy::Name)]
    pub(crate) sort: SortBy,

    /// List only locks that have been held for this long, such as --stale=2h; --stale alone means a
    /// day.
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = duration_with_unit,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1d"
    )]
    pub(crate) stale: Option<Duration>,

    /// Print a list that is longer than the terminal directly, and not through $PAGER or less.
    #[arg(long)]
    pub(crate) no_pager: bool,

    /// List only names that begin with this prefix.
    #[arg(default_value = "")]
    pub(crate) prefix: String,
}

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortBy {
    /// By name.
    Name,
    /// By age, the oldest first.
    Age,
}

/// The locks to watch.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Time between two looks, such as 500ms.
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = duration_with_unit,
        default_value = "2s",
        allow_hyphen_values = true
    )]
    pub(crate) interval: Duration,

    /// Order of the locks: their names, or their ages with the oldest first.
    #[arg(long, value_enum, value_name = "KEY", default_value_t = SortBy::Name)]
    pub(crate) sort: SortBy,

    /// Watch only names that begin with this prefix.
    #[arg(default_value = "")]
    pub(crate) prefix: String,
}

/// The lock to wait for.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Wait at most this long: a duration such as 1m30s, or a number of seconds [default: no
    /// limit].
    #[arg(
        short,
        long,
        alias = "timeout",
        value_name = "DURATION",
        value_parser = duration,
        allow_hyphen_values = true
    )]
    pub(crate) wait: Option<Duration>,

    /// Print on standard error who holds the lock, in a log too.
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// Print nothing, on a terminal too.
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Name of the lock, or the path of a lock file.
    #[arg(value_parser = lock_name)]
    pub(crate) name: LockName,
}

/// The lock to break, as the operator saw it.
#[derive(Debug, Args)]
pub(crate) struct BreakArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Break any holder's lock, without a question.
    #[arg(short, long)]
    pub(crate) yes: bool,

    /// Break the lock only if this owner holds it, without a question.
    #[arg(long, value_name = "OWNER")]
    pub(crate) if_holder: Option<String>,

    /// Break the lock only if its holder has this fencing token, without a question.
    #[arg(long, value_name = "TOKEN", value_parser = number(0, u64::MAX), allow_hyphen_values = true)]
    pub(crate) if_token: Option<u64>,

    /// Break the lock only if it has this version, which `onelock status` shows, without a
    /// question.
    #[arg(long, value_name = "VERSION")]
    pub(crate) if_version: Option<String>,

    // Not a documentation comment: rustdoc would read the default as a link.
    #[arg(long, value_name = "TEXT", help = "Name of the operator, which the holder is told [default: user@host]")]
    pub(crate) by: Option<String>,

    /// Name of the lock, or the path of a lock file.
    #[arg(value_parser = lock_name)]
    pub(crate) name: LockName,
}

/// The lock files to remove.
#[derive(Debug, Args)]
pub(crate) struct SweepArgs {
    /// Clean up after names that were not used for this long, such as 90d; choose more than the
    /// interval between two runs of the rarest job.
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = duration_with_unit,
        default_value = "30d",
        allow_hyphen_values = true
    )]
    pub(crate) idle: Duration,

    /// Only print what would be removed or emptied.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Directory of the locks, or the postgres: config string of their table.
    #[arg(value_name = "STORE")]
    pub(crate) store: PathBuf,
}
