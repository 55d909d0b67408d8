//! `onelock run`

use std::{ffi::OsString, path::PathBuf};

use clap::Args;
use lock_core::LockName;

use super::{LockArgs, values::lock_name};

/// Run a command while holding a lock, as flock(1) does, on every store.
///
/// The command starts only when the lock is held. If the lock is lost, the command and all its
/// descendants are stopped.
#[derive(Debug, Args)]
#[command(override_usage = "onelock run [OPTIONS] <NAME> [--] <COMMAND> [ARG]...
       onelock run [OPTIONS] <NAME> -c <SHELL COMMAND>")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) lock: LockArgs,

    /// Become the command instead of supervising it (files only): the lock lasts until the command
    /// and all its descendants have ended, and a loss goes unnoticed.
    #[arg(short = 'F', long, conflicts_with_all = ["min_hold", "max_hold", "deadline", "metrics_file"])]
    pub(crate) no_fork: bool,

    /// Command line for the shell ($SHELL, else /bin/sh).
    #[arg(short = 'c', long = "command", value_name = "SHELL COMMAND", conflicts_with = "argv")]
    pub(crate) shell: Option<OsString>,

    /// Write outcomes, times and durations of the runs for Prometheus, such as to
    /// /var/lib/prometheus/node-exporter/etl.prom, which its node exporter reads.
    #[arg(long, value_name = "FILE")]
    pub(crate) metrics_file: Option<PathBuf>,

    /// Accepted because flock has it: no command inherits a lock.
    #[arg(short = 'o', long, hide = true)]
    close: bool,

    /// Name of the lock, or the path of a lock file.
    #[arg(value_parser = lock_name)]
    pub(crate) name: LockName,

    /// Command and its arguments.
    #[arg(
        value_name = "COMMAND",
        required_unless_present = "shell",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) argv: Vec<OsString>,
}
