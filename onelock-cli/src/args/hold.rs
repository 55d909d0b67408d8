//! Arguments of `onelock hold`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use lock_core::LockName;

use super::{
    LockArgs,
    values::{duration_with_unit, lock_name},
};

/// Hold a lock for the process that starts this command, until its standard input ends.
///
/// Prints "held NAME token=N" once it holds the lock, and nothing before. The process that starts
/// it is its client. It releases the lock and ends when its standard input ends, when it is
/// signalled, or when the client ends. With --json it serves a program, which acquires any number
/// of locks through lines of JSON.
#[derive(Debug, Args)]
#[command(override_usage = "onelock hold [OPTIONS] <NAME>
       onelock hold --json [OPTIONS]")]
pub(crate) struct HoldArgs {
    #[command(flatten)]
    pub(crate) lock: LockArgs,

    /// What happens to the client when the lock is lost [default: term; with --json: tell].
    #[arg(long, value_enum, value_name = "ACTION")]
    pub(crate) on_loss: Option<OnLoss>,

    /// Serve a program that writes requests as lines of JSON, and reads replies and events.
    #[arg(long, conflicts_with_all = [
        "name", "nonblock", "wait", "conflict_exit_code", "verbose", "quiet", "deadline"
    ])]
    pub(crate) json: bool,

    /// End all locks of a client that sends no ping for this long, such as 30s [default: no limit].
    #[arg(
        long,
        conflicts_with = "name",
        value_name = "DURATION",
        value_parser = duration_with_unit,
        allow_hyphen_values = true
    )]
    pub(crate) heartbeat: Option<Duration>,

    /// Name of the lock, or the path of a lock file.
    #[arg(value_parser = lock_name, required_unless_present = "json")]
    pub(crate) name: Option<LockName>,
}

/// What happens to the client when its lock is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnLoss {
    /// SIGTERM the grace time before a lease ends, and SIGKILL at its end, to the client and its
    /// descendants.
    Term,
    /// SIGKILL at the end of the lease, to the client and its descendants.
    Kill,
    /// The client is only told: the line lost REASON and exit code 75, or an event with --json.
    Tell,
}
