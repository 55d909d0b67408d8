//! The command line: one file for each command's arguments. Nothing here imports its users.

mod doctor;
mod hold;
mod init;
mod limits;
mod lock;
mod manual;
mod operators;
mod run;
mod store;
#[cfg(feature = "torture")]
mod torture;
mod values;

use clap::{Parser, Subcommand};

#[cfg(feature = "torture")]
pub(crate) use self::torture::{TortureArgs, TortureWorkerArgs};
pub(crate) use self::{
    doctor::{DoctorArgs, SecondProcessArgs},
    hold::{HoldArgs, OnLoss},
    init::InitArgs,
    limits::LimitArgs,
    lock::{LockArgs, LogFormat},
    manual::{CompletionsArgs, ManArgs},
    operators::{BreakArgs, ListArgs, SortBy, StatusArgs, SweepArgs, WaitArgs, WatchArgs},
    run::RunArgs,
    store::StoreArgs,
};

/// One lock for cron jobs and scripts, over files, EFS, DynamoDB, Redis, PostgreSQL and object
/// stores.
#[derive(Debug, Parser)]
#[command(name = "onelock", arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: CliCommand,
}

/// The command line of `run` without a description of the other commands: it starts before every
/// job, and a third of its start would be that description.
#[derive(Debug, Parser)]
pub(crate) enum OnlyRun {
    Run(RunArgs),
}

impl From<OnlyRun> for Cli {
    fn from(OnlyRun::Run(args): OnlyRun) -> Self {
        Self { command: CliCommand::Run(args) }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum CliCommand {
    // The texts of these two are at their arguments.
    Run(RunArgs),
    Hold(HoldArgs),
    /// Show who holds a lock; exit code 0 if it is held, 1 if it is free.
    Status(StatusArgs),
    /// List the held locks, with their holders and ages.
    List(ListArgs),
    /// Show the list of the held locks again and again, until Ctrl-C.
    Watch(WatchArgs),
    /// Wait until a lock is free; exit code 0 when it is, 1 if it is still held at the end of
    /// --wait.
    ///
    /// This takes no lock, so another client may hold it a moment later. To work while the lock is
    /// held, use `onelock run`.
    Wait(WaitArgs),
    /// Take a lock from its holder; not on files.
    ///
    /// On a terminal the command shows the holder and asks. Elsewhere --if-holder, --if-token or
    /// --if-version names the holder, or --yes allows any holder. The lock is broken only if it has
    /// not changed since the command read it. The holder is told the name of the operator.
    ///
    /// If the lock has several holders, one of them loses its part, and the others go on. If
    /// several fit, give the --if-token of one. Exit code 1 if the lock was not broken.
    ///
    /// A lock on files ends only with its process: stop that process instead.
    Break(BreakArgs),
    /// Create the table of a dynamodb: or postgres: store, or check an existing one; can be
    /// repeated.
    Init(InitArgs),
    /// Clean up after names that have been idle for a long time; safe while jobs run, so it suits a
    /// crontab.
    ///
    /// On a local file system all files of such a name are removed. On NFS, and on file systems of
    /// unknown kind, its record is emptied and its lock file stays, because the network may deliver
    /// a removal late, to the file of the next holder. In PostgreSQL the rows of such names are
    /// deleted, after a day at least.
    ///
    /// Names that only flock(1) or filelock use are left untouched. If a script locks the same file
    /// with flock(1), choose an --idle longer than the interval between two runs of the script.
    /// Otherwise the script may lock a file that is just being removed.
    Sweep(SweepArgs),
    /// Check whether a store, as configured, is fit for locks, and say what to change; exit code 0
    /// if it is fit, 1 if it is unfit.
    ///
    /// The doctor acquires locks under names that begin with "onelock-doctor/" and a random part,
    /// and with --peer also under "onelock-doctor/peer". It touches nothing else, and removes its
    /// own names from the store afterwards. So it needs permission to acquire locks, and on files
    /// it creates a missing directory, as the first lock does. Warnings do not make a store unfit.
    Doctor(DoctorArgs),
    /// Second process of `doctor`.
    #[command(hide = true)]
    DoctorSecondProcess(SecondProcessArgs),
    /// Test whether a store keeps its guarantees: many processes contend, some are killed, frozen
    /// or cut off, and their recorded history is checked.
    ///
    /// Processes are cut off by a proxy on loopback, if the store is plain TCP: redis:, postgres:,
    /// or dynamodb: with an http: endpoint. For other stores the report says why not. The names of
    /// the run are removed from the store afterwards. Markers against delayed requests expire by
    /// themselves within minutes.
    #[cfg(feature = "torture")]
    Torture(TortureArgs),
    /// Worker process of `torture`.
    #[cfg(feature = "torture")]
    #[command(hide = true)]
    TortureWorker(TortureWorkerArgs),
    /// Test whether a store keeps its guarantees; not in this build, which lacks `--features
    /// torture`.
    #[cfg(not(feature = "torture"))]
    Torture(NoTortureArgs),
    /// Print the completions of a shell, which packages and users install.
    Completions(CompletionsArgs),
    /// Print the manual page onelock(1), or write the pages of all commands into a directory.
    Man(ManArgs),
}

/// Accepts any arguments, because the answer is always that this build lacks the command.
#[cfg(not(feature = "torture"))]
#[derive(Debug, clap::Args)]
pub(crate) struct NoTortureArgs {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    ignored: Vec<std::ffi::OsString>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{values::duration, *};

    fn run(line: &[&str]) -> Result<RunArgs, clap::Error> {
        Cli::try_parse_from([&["onelock", "run"], line].concat()).map(|cli| {
            let CliCommand::Run(args) = cli.command else { panic!("not run") };
            args
        })
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn options_after_the_command_belong_to_the_command() {
        for line in [
            &["-n", "job", "--", "rm", "-n", "-v"][..],
            &["-n", "job", "rm", "-n", "-v"],
            &["job", "-n", "rm", "-n", "-v"],
        ] {
            let args = run(line).unwrap();
            assert!(args.lock.nonblock && args.lock.verbose == 0);
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
    fn every_duration_option_refuses_a_capital_unit() {
        use clap::CommandFactory;
        let mut tried = 0;
        for command in Cli::command().get_subcommands() {
            let durations =
                command.get_arguments().filter(|a| a.get_value_names().is_some_and(|names| names[0] == "DURATION"));
            for option in durations.filter_map(|a| a.get_long()) {
                let line = ["onelock", command.get_name(), &format!("--{option}=5M")];
                let refused = Cli::try_parse_from(line).unwrap_err().to_string();
                assert!(refused.contains("write it in lower case: m"), "{option}: {refused}");
                tried += 1;
            }
        }
        let least = if cfg!(feature = "torture") { 17 } else { 15 };
        assert!(tried >= least, "{tried}");
    }

    #[test]
    fn every_option_with_a_number_refuses_a_negative_one() {
        use clap::CommandFactory;
        let mut tried = 0;
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            for (option, takes_numbers) in command.get_arguments().filter_map(|arg| Some((arg, number_of(arg)?))) {
                for (spelling, value) in spellings(option) {
                    let line = ["onelock", command.get_name()].into_iter().chain(spelling.iter().map(String::as_str));
                    let refused = Cli::try_parse_from(line).unwrap_err().to_string();
                    let long = option.get_long().expect("each option has a long name");
                    let names_both = refused.contains(&format!("invalid value '{value}' for '--{long}"));
                    assert!(names_both && refused.contains(takes_numbers), "{spelling:?}: {refused}");
                    tried += 1;
                }
            }
        }
        let least = if cfg!(feature = "torture") { 240 } else { 200 };
        assert!(tried >= least, "{tried}");
    }

    /// Returns what the error of an option says that takes a number or a duration.
    fn number_of(option: &clap::Arg) -> Option<&'static str> {
        match option.get_value_names()?.first()?.as_str() {
            "DURATION" => Some("is negative; give a duration of at least 0s"),
            "NUMBER" => Some("give the number of commands"),
            "N" | "CODE" | "TOKEN" | "SEED" => Some("give a whole number from "),
            _ => None,
        }
    }

    /// Returns the ways to give an option a negative value, each with the value.
    fn spellings(option: &clap::Arg) -> Vec<(Vec<String>, &'static str)> {
        let long = option.get_long().into_iter().chain(option.get_all_aliases().unwrap_or_default());
        let long: Vec<_> = long.map(|name| format!("--{name}")).collect();
        let short: Vec<_> = option.get_short().into_iter().map(|name| format!("-{name}")).collect();
        let each = |value: &'static str| {
            let apart = long.iter().chain(&short).map(|name| vec![name.clone(), value.into()]);
            let apart = apart.filter(|_| !option.is_require_equals_set());
            let equals = long.iter().chain(&short).map(|name| vec![format!("{name}={value}")]);
            let joined = short.iter().map(|name| vec![format!("{name}{value}")]);
            apart.chain(equals).chain(joined).map(move |words| (words, value)).collect::<Vec<_>>()
        };
        ["-1", "-5s", "-1.5m", "-.5"].into_iter().flat_map(each).collect()
    }

    #[test]
    fn flock_options_are_accepted_or_refused_with_a_reason() {
        for line in [
            &["-x", "job", "true"][..],
            &["-s", "-n", "job", "true"],
            &["-e", "-o", "job", "true"],
            &["--nb", "job", "true"],
            &["--nonblocking", "job", "true"],
        ] {
            assert!(run(line).is_ok(), "{line:?}");
        }
        let unitless = run(&["--ttl", "30", "job", "true"]).unwrap_err().to_string();
        assert!(unitless.contains("write 30s"), "{unitless}");
    }

    #[test]
    fn hold_takes_a_name_or_json() {
        let hold = |line: &[&str]| Cli::try_parse_from([&["onelock", "hold"], line].concat()).map(drop);
        for line in [&["job"][..], &["-w", "10", "-E", "5", "--on-loss", "tell", "job"], &["--json", "--ttl", "20s"]] {
            assert!(hold(line).is_ok(), "{line:?}");
        }
        for line in [
            &[][..],
            &["job", "--", "true"],
            &["--json", "job"],
            &["--json", "-n"],
            &["--json", "-w", "1"],
            &["--heartbeat", "30s", "job"],
            &["--on-loss", "ask", "job"],
        ] {
            assert!(hold(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn missing_and_contradictory_arguments_are_refused() {
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
