//! The options of one acquisition, which `onelock run` and `onelock hold` share.

use std::{num::NonZeroU16, time::Duration};

use clap::{ArgAction, Args, ValueEnum};
use lock_core::Mode;

use super::{
    LimitArgs, StoreArgs,
    values::{duration, duration_with_unit, number, permits},
};

// Not a documentation comment: clap would make it the help of the commands that have these options.
// The store, how long to wait for the lock, and how it is held.
#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Do not wait if another client holds the lock.
    #[arg(short, long, aliases = ["nb", "nonblocking"], conflicts_with = "wait")]
    pub(crate) nonblock: bool,

    /// Wait at most this long to open the store and get the lock: a duration such as 1m30s, or a
    /// number of seconds as in flock; 0 tries once [default: no limit].
    #[arg(
        short,
        long,
        alias = "timeout",
        value_name = "DURATION",
        value_parser = duration,
        allow_hyphen_values = true
    )]
    pub(crate) wait: Option<Duration>,

    /// Take a shared lock: others may share it, and an exclusive lock excludes all of them.
    #[arg(short = 's', long, overrides_with = "exclusive")]
    pub(crate) shared: bool,

    /// Take an exclusive lock, which is the default.
    #[arg(short = 'x', long, short_alias = 'e', overrides_with = "shared")]
    pub(crate) exclusive: bool,

    /// Let at most this many clients hold the lock at once. All of them give the same number.
    #[arg(
        long,
        value_name = "NUMBER",
        value_parser = permits,
        conflicts_with_all = ["shared", "exclusive"],
        allow_hyphen_values = true
    )]
    pub(crate) permits: Option<NonZeroU16>,

    /// Wait in the order of arrival: first come, first served, over all hosts. Commands that wait
    /// without --fair come after those that wait with it. Not on every store.
    #[arg(long)]
    pub(crate) fair: bool,

    /// Delay the first attempt by a random part of this time, such as 5s, also with -n. Then a
    /// fleet with one schedule does not ask in one moment. For a job that runs once for the whole
    /// fleet, --min-hold must be longer [default: the store's spread option, else 0s].
    #[arg(long, value_name = "DURATION", value_parser = duration_with_unit, allow_hyphen_values = true)]
    pub(crate) spread: Option<Duration>,

    /// Exit code if the lock could not be acquired.
    #[arg(
        short = 'E',
        long,
        value_name = "CODE",
        default_value_t = 1,
        value_parser = number(0, u8::MAX),
        allow_hyphen_values = true
    )]
    pub(crate) conflict_exit_code: u8,

    /// How long the store keeps the lock without a renewal, such as 20s. Files have no ttl, and
    /// need none: their locks end with the process [default: the store's ttl option, else 30s].
    #[arg(long, value_name = "DURATION", value_parser = duration_with_unit, allow_hyphen_values = true)]
    pub(crate) ttl: Option<Duration>,

    /// Time between SIGTERM and SIGKILL before a lease ends, such as 2s; none once the store says
    /// that the lock is lost [default: 5s, at most a quarter of the lease].
    #[arg(long, value_name = "DURATION", value_parser = duration_with_unit, allow_hyphen_values = true)]
    pub(crate) grace: Option<Duration>,

    #[command(flatten)]
    pub(crate) limits: LimitArgs,

    /// Print on standard error who holds the lock while waiting, which failure is retried, and in
    /// which store the lock was acquired if none was given. On a terminal the first two are shown
    /// anyway.
    ///
    /// Given twice, also what the library does: requests, renewals, takeovers.
    #[arg(short, long, action = ArgAction::Count)]
    pub(crate) verbose: u8,

    /// Form of the messages on standard error; text that goes to the journal has priorities.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) log_format: LogFormat,

    /// Print nothing about the wait and the previous holder, on a terminal too.
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Name of this holder as other clients see it [default: host and process id].
    #[arg(long, value_name = "TEXT")]
    pub(crate) owner: Option<String>,
}

/// The form of messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object a line: time, level, message, lock, and the exit code of the last error.
    Json,
}

impl LockArgs {
    /// Returns how the lock is to be held.
    pub(crate) fn mode(&self) -> Mode {
        match self.permits {
            Some(of) => Mode::Permit { of },
            None if self.shared => Mode::Shared,
            None => Mode::Exclusive,
        }
    }
}
