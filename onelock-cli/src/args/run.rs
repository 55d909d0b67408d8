//! `onelock run`

use std::{ffi::OsString, time::Duration};

use clap::Args;
use lock_core::LockName;

use super::{
    StoreArgs,
    values::{duration, duration_with_unit, lock_name, shared},
};
use crate::exit;

/// Run a command while holding a lock; what flock(1) does, on every store.
///
/// The command is not started before the lock is held, and nothing that it started outlives a lock
/// that is lost.
#[derive(Debug, Args)]
#[command(after_help = exit::table_text(), override_usage = "onelock run [OPTIONS] <NAME> [--] <COMMAND> [ARG]...
       onelock run [OPTIONS] <NAME> -c <SHELL COMMAND>")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Do not wait when somebody else holds the lock.
    #[arg(short, long, alias = "nb", conflicts_with = "wait")]
    pub(crate) nonblock: bool,

    /// Wait no longer than this for the lock: "1m30s", or a plain number of seconds, as for flock;
    /// 0 tries once.
    #[arg(short, long, alias = "timeout", value_name = "DURATION", value_parser = duration)]
    pub(crate) wait: Option<Duration>,

    /// The exit code when the lock was not had.
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = 1)]
    pub(crate) conflict_exit_code: u8,

    /// How long the store keeps the lock without a sign of life from us; not for files, which need
    /// none.
    #[arg(long, value_name = "DURATION", value_parser = duration_with_unit)]
    pub(crate) ttl: Option<Duration>,

    /// When the lock is being lost: the time between SIGTERM and SIGKILL [default: 5s, less for a
    /// short ttl].
    #[arg(long, value_name = "DURATION", value_parser = duration_with_unit)]
    pub(crate) grace: Option<Duration>,

    /// Become the command instead of supervising it (files only): the lock lasts until the command
    /// and all that it started are gone, and a loss of the lock goes unnoticed.
    #[arg(short = 'F', long)]
    pub(crate) no_fork: bool,

    /// Say on standard error who holds the lock while waiting.
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// How to call ourselves, for others to read [default: host and process].
    #[arg(long, value_name = "TEXT")]
    pub(crate) owner: Option<String>,

    /// A command line for the shell ($SHELL, else /bin/sh).
    #[arg(short = 'c', long = "command", value_name = "SHELL COMMAND", conflicts_with = "argv")]
    pub(crate) shell: Option<OsString>,

    /// Accepted for flock's sake: every lock is exclusive, and the command never inherits it.
    #[arg(short = 'x', long, short_alias = 'e', hide = true)]
    exclusive: bool,

    /// As `exclusive`.
    #[arg(short = 'o', long, hide = true)]
    close: bool,

    /// Refused, with the reason, rather than unknown.
    #[arg(short = 's', long, hide = true, value_parser = shared, num_args = 0, default_missing_value = "")]
    shared: Option<bool>,

    /// The name of the lock.
    #[arg(value_parser = lock_name)]
    pub(crate) name: LockName,

    /// The command and its arguments.
    #[arg(
        value_name = "COMMAND",
        required_unless_present = "shell",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) argv: Vec<OsString>,
}
