//! `onelock run`

use std::{ffi::OsString, num::NonZeroU16, time::Duration};

use clap::Args;
use lock_core::{LockName, Mode};

use super::{
    StoreArgs,
    values::{duration, duration_with_unit, lock_name, permits},
};
use crate::exit;

/// Run a command while holding a lock, as flock(1) does, on every store.
///
/// The command starts only when the lock is held. If the lock is lost, the command and all its
/// descendants are stopped.
#[derive(Debug, Args)]
#[command(after_help = exit::table_text(), override_usage = "onelock run [OPTIONS] <NAME> [--] <COMMAND> [ARG]...
       onelock run [OPTIONS] <NAME> -c <SHELL COMMAND>")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Do not wait if another client holds the lock.
    #[arg(short, long, alias = "nb", conflicts_with = "wait")]
    pub(crate) nonblock: bool,

    /// Wait at most this long to open the store and get the lock: a duration such as 1m30s, or a
    /// number of seconds as in flock; 0 tries once [default: no limit].
    #[arg(short, long, alias = "timeout", value_name = "DURATION", value_parser = duration)]
    pub(crate) wait: Option<Duration>,

    /// Exit code if the lock could not be acquired.
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = 1)]
    pub(crate) conflict_exit_code: u8,

    /// How long the store keeps the lock without a renewal, such as 20s; an error on files, which
    /// have no ttl [default: the store's ttl option, else 30s].
    #[arg(long, value_name = "DURATION", value_parser = duration_with_unit)]
    pub(crate) ttl: Option<Duration>,

    /// Time between SIGTERM and SIGKILL before a lease ends, such as 2s; none once the store says
    /// that the lock is lost [default: 5s, at most a quarter of the lease].
    #[arg(long, value_name = "DURATION", value_parser = duration_with_unit)]
    pub(crate) grace: Option<Duration>,

    /// Become the command instead of supervising it (files only): the lock lasts until the command
    /// and all its descendants have ended, and a loss goes unnoticed.
    #[arg(short = 'F', long)]
    pub(crate) no_fork: bool,

    /// Print on standard error who holds the lock while waiting, which failure is retried, and in
    /// which store the lock was acquired if none was given.
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// Name of this holder as other clients see it [default: host and process id].
    #[arg(long, value_name = "TEXT")]
    pub(crate) owner: Option<String>,

    /// Command line for the shell ($SHELL, else /bin/sh).
    #[arg(short = 'c', long = "command", value_name = "SHELL COMMAND", conflicts_with = "argv")]
    pub(crate) shell: Option<OsString>,

    /// Take a shared lock: others may share it, and an exclusive lock excludes all of them.
    #[arg(short = 's', long, overrides_with = "exclusive")]
    shared: bool,

    /// Take an exclusive lock, which is the default.
    #[arg(short = 'x', long, short_alias = 'e', overrides_with = "shared")]
    exclusive: bool,

    /// Let at most this many commands with this lock run at once. All of them give the same number.
    #[arg(long, value_name = "NUMBER", value_parser = permits, conflicts_with_all = ["shared", "exclusive"])]
    permits: Option<NonZeroU16>,

    /// Accepted because flock has it: no command inherits a lock.
    #[arg(short = 'o', long, hide = true)]
    close: bool,

    /// Name of the lock.
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

impl RunArgs {
    /// Returns how the lock is to be held.
    pub(crate) fn mode(&self) -> Mode {
        match self.permits {
            Some(of) => Mode::Permit { of },
            None if self.shared => Mode::Shared,
            None => Mode::Exclusive,
        }
    }
}
