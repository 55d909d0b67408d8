//! The command line.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use lock_core::{
    LockName,
    config::{LONGEST_DURATION, parse_duration},
};

use super::{
    doctor::{DoctorArgs, RivalArgs},
    exit,
    store::StoreArgs,
};

/// One lock for cron jobs and scripts, over files, EFS, DynamoDB and Redis.
#[derive(Debug, Parser)]
#[command(name = "onelock", version, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run a command while holding a lock.
    Run(RunArgs),
    /// Say who holds a lock; exit code 0 when it is held, 1 when it is free.
    Status(StatusArgs),
    /// List the locks that are held.
    List(ListArgs),
    /// Take a lock away from its holder, if it still is as `onelock status` showed it. Not on files: end the holder's process there.
    Break(BreakArgs),
    /// Create the table of a dynamodb: store, or check one that is there; can be repeated.
    Init(InitArgs),
    /// Remove the lock files of names that nobody has used for long; safe while jobs run, and made for a crontab.
    ///
    /// Names that only flock(1) or filelock use are left alone. A script that locks the same file as onelock with flock(1) may, if it starts in the
    /// very moment of the removal, lock the removed file: give --idle more time than between two runs of it.
    Sweep(SweepArgs),
    /// Judge whether a store, as it is set up, is fit for locks, and say what to change; exit code 0 when it is fit, 1 when it is not.
    ///
    /// Locks are tried under names that begin with "onelock-doctor/" and a random part, with --peer also under "onelock-doctor/peer", and nothing else is touched; the store is made
    /// to forget them. Warnings do not make a store unfit.
    Doctor(DoctorArgs),
    /// Another process of `doctor`.
    #[command(hide = true)]
    DoctorRival(RivalArgs),
    /// Find out whether a store keeps its promises: contend with many processes, kill, freeze and cut off some, check what happened.
    ///
    /// Processes are cut off by a proxy of our own on loopback, where the store is plain TCP (redis:, and dynamodb: with an http: endpoint); elsewhere the
    /// report says why not. What is left in the store of names that were used is removed; marks that protect against delayed requests
    /// go by themselves within minutes.
    Torture(TortureArgs),
    /// One of the processes of `torture`.
    #[command(hide = true)]
    TortureWorker(TortureWorkerArgs),
}

/// Which table, and what it shall have.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    #[command(flatten)]
    pub(super) store: StoreArgs,

    /// Only look: say what is wrong with the table, and change nothing.
    #[arg(long)]
    pub(super) check: bool,

    /// A tag for a new table; can be repeated.
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = tag)]
    pub(super) tags: Vec<(String, String)>,

    /// Switch point-in-time recovery on.
    #[arg(long)]
    pub(super) point_in_time_recovery: bool,

    /// Protect the table from deletion.
    #[arg(long)]
    pub(super) deletion_protection: bool,

    /// Do not let DynamoDB delete items that have been idle for long.
    #[arg(long)]
    pub(super) keep_idle: bool,
}

/// What to remove.
#[derive(Debug, Args)]
pub(super) struct SweepArgs {
    /// Remove names that were not used for this long, such as "30d"; longer than between two runs of the rarest job.
    #[arg(long, value_name = "DURATION", value_parser = with_unit, default_value = "30d")]
    pub(super) idle: Duration,

    /// Only say what would be removed.
    #[arg(long)]
    pub(super) dry_run: bool,

    /// The directory of the locks.
    #[arg(value_name = "DIR")]
    pub(super) directory: PathBuf,
}

/// Which store, and how hard. Exit code 0 when every promise was kept, 1 when one was broken, 69 when no lock was ever had.
///
/// Names that begin with "onelock-torture/" and a random part are used, and nothing else is touched.
#[derive(Debug, Args)]
pub(super) struct TortureArgs {
    #[command(flatten)]
    pub(super) store: StoreArgs,

    /// For how long.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(super) time: Duration,

    /// How many processes contend at a time, each for several locks.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) processes: u32,

    /// For how many locks, some of which are wanted more than others.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) names: u32,

    /// The ttl of the locks; files have none. Processes are frozen and cut off for up to twice as long.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = with_unit)]
    pub(super) ttl: Duration,

    /// Repeats the choices of an earlier run (though not its timing) [default: random].
    #[arg(long, value_name = "SEED")]
    pub(super) seed: Option<u64>,

    /// The report as one JSON object, for programs.
    #[arg(long)]
    pub(super) json: bool,
}

/// What the parent tells a process of `torture`; the store comes in `$ONELOCK_URL`.
#[derive(Debug, Args)]
pub(super) struct TortureWorkerArgs {
    #[arg(long)]
    pub(super) directory: PathBuf,
    #[arg(long)]
    pub(super) prefix: String,
    #[arg(long)]
    pub(super) names: u32,
    #[arg(long, value_parser = with_unit)]
    pub(super) ttl: Duration,
    #[arg(long)]
    pub(super) number: u64,
    #[arg(long)]
    pub(super) seed: u64,
    #[arg(long)]
    pub(super) parent: i32,
}

/// Which lock, and how to say it.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub(super) store: StoreArgs,

    /// One JSON object, for programs.
    #[arg(long)]
    pub(super) json: bool,

    /// The name of the lock.
    #[arg(value_parser = name)]
    pub(super) name: LockName,
}

/// Which locks, and how to say it.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    pub(super) store: StoreArgs,

    /// One JSON object a line, for programs.
    #[arg(long)]
    pub(super) json: bool,

    /// Only names that begin with this.
    #[arg(default_value = "")]
    pub(super) prefix: String,
}

/// Which lock, as it was seen.
#[derive(Debug, Args)]
pub(super) struct BreakArgs {
    #[command(flatten)]
    pub(super) store: StoreArgs,

    /// The version that `onelock status` showed: nothing is broken if the lock has changed since.
    #[arg(long)]
    pub(super) version: String,

    /// Who breaks it, for the holder to read [default: user@host].
    #[arg(long, value_name = "TEXT")]
    pub(super) by: Option<String>,

    /// The name of the lock.
    #[arg(value_parser = name)]
    pub(super) name: LockName,
}

/// Run a command while holding a lock; what flock(1) does, on every store.
///
/// The command is not started before the lock is held, and nothing that it started outlives a lock that is lost.
#[derive(Debug, Args)]
#[command(after_help = exit::table_text(), override_usage = "onelock run [OPTIONS] <NAME> [--] <COMMAND> [ARG]...
       onelock run [OPTIONS] <NAME> -c <SHELL COMMAND>")]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) store: StoreArgs,

    /// Do not wait when somebody else holds the lock.
    #[arg(short, long, alias = "nb", conflicts_with = "wait")]
    pub(super) nonblock: bool,

    /// Wait no longer than this for the lock: "1m30s", or a plain number of seconds, as for flock; 0 tries once.
    #[arg(short, long, alias = "timeout", value_name = "DURATION", value_parser = duration)]
    pub(super) wait: Option<Duration>,

    /// The exit code when the lock was not had.
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = 1)]
    pub(super) conflict_exit_code: u8,

    /// How long the store keeps the lock without a sign of life from us; not for files, which need none.
    #[arg(long, value_name = "DURATION", value_parser = with_unit)]
    pub(super) ttl: Option<Duration>,

    /// When the lock is being lost: the time between SIGTERM and SIGKILL [default: 5s, less for a short ttl].
    #[arg(long, value_name = "DURATION", value_parser = with_unit)]
    pub(super) grace: Option<Duration>,

    /// Become the command instead of supervising it (files only): the lock lasts until the command and all that it started are
    /// gone, and a loss of the lock goes unnoticed.
    #[arg(short = 'F', long)]
    pub(super) no_fork: bool,

    /// Say on standard error who holds the lock while waiting.
    #[arg(short, long)]
    pub(super) verbose: bool,

    /// How to call ourselves, for others to read [default: host and process].
    #[arg(long, value_name = "TEXT")]
    pub(super) owner: Option<String>,

    /// A command line for the shell ($SHELL, else /bin/sh).
    #[arg(short = 'c', long = "command", value_name = "SHELL COMMAND", conflicts_with = "argv")]
    pub(super) shell: Option<OsString>,

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
    #[arg(value_parser = name)]
    pub(super) name: LockName,

    /// The command and its arguments.
    #[arg(
        value_name = "COMMAND",
        required_unless_present = "shell",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(super) argv: Vec<OsString>,
}

/// A duration with units, or a plain number of seconds, because that is what the fingers of flock's users type.
fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        let parsed = Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())?;
        return if parsed > LONGEST_DURATION {
            Err(format!("at most {LONGEST_DURATION:?} are taken"))
        } else {
            Ok(parsed)
        };
    }
    with_unit(text).map_err(|e| e.to_string())
}

/// As in the options of a config string.
pub(super) fn with_unit(text: &str) -> Result<Duration, onelock::Error> {
    parse_duration(text)
}

fn shared(_: &str) -> Result<bool, String> {
    Err("there are no shared locks here; every lock has one holder".into())
}

fn tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it like team=etl")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) fn name(text: &str) -> Result<LockName, String> {
    LockName::new(text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &[&str]) -> Result<RunArgs, clap::Error> {
        Cli::try_parse_from([&["onelock", "run"], line].concat()).map(|cli| {
            let Verb::Run(args) = cli.command else { panic!("not run") };
            args
        })
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_commands_own_options_are_not_ours() {
        for line in [
            &["-n", "job", "--", "rm", "-n", "-v"][..],
            &["-n", "job", "rm", "-n", "-v"],
            &["job", "-n", "rm", "-n", "-v"],
        ] {
            let args = run(line).unwrap();
            assert!(args.nonblock && !args.verbose);
            assert_eq!(args.argv, ["rm", "-n", "-v"]);
        }
        assert_eq!(run(&["job", "--", "--help"]).unwrap().argv, ["--help"]);
    }

    #[test]
    fn a_shell_command_is_given_as_with_flock() {
        let args = run(&["job", "-c", "a | b"]).unwrap();
        assert_eq!((args.shell, args.argv), (Some("a | b".into()), vec![]));
        assert!(run(&["job", "-c", "a", "b"]).is_err());
    }

    #[test]
    fn durations_are_plain_seconds_or_have_units() {
        for (text, millis) in [("10", 10_000), ("0", 0), ("0.5", 500), ("1m30s", 90_000), ("250ms", 250)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "-1", "nan", "soon", "1e300", "1e19", "3153600001", "36501d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_capital_unit_is_refused_everywhere_because_months_are_never_meant() {
        use clap::CommandFactory;
        let mut tried = 0;
        for command in Cli::command().get_subcommands() {
            let durations =
                command.get_arguments().filter(|a| a.get_value_names().is_some_and(|names| names[0] == "DURATION"));
            for option in durations.filter_map(|a| a.get_long()) {
                let line = ["onelock", command.get_name(), &format!("--{option}=5M")];
                let refused = Cli::try_parse_from(line).unwrap_err().to_string();
                assert!(refused.contains("write it small: m"), "{option}: {refused}");
                tried += 1;
            }
        }
        assert!(tried >= 6, "{tried}");
    }

    #[test]
    fn the_options_of_flock_are_accepted_or_refused_with_the_reason() {
        for line in [&["-x", "job", "true"][..], &["-e", "-o", "job", "true"], &["--nb", "job", "true"]] {
            assert!(run(line).is_ok(), "{line:?}");
        }
        let refused = run(&["-s", "job", "true"]).unwrap_err().to_string();
        assert!(refused.contains("one holder"), "{refused}");
        let unitless = run(&["--ttl", "30", "job", "true"]).unwrap_err().to_string();
        assert!(unitless.contains("write 30s"), "{unitless}");
    }

    #[test]
    fn what_is_missing_or_contradicts_itself_is_refused() {
        for line in [
            &[][..],
            &["job"],
            &["job", "--"],
            &["", "true"],
            &["-n", "-w", "1", "job", "true"],
            &["-E", "256", "job", "true"],
        ] {
            assert!(run(line).is_err(), "{line:?}");
        }
    }
}
