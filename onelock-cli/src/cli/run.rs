//! `onelock run`: from the command line to the processes that do it.

use std::{env, ffi::OsString, fs::OpenOptions, os::unix::fs::OpenOptionsExt, time::Duration};

use tokio::runtime::Runtime;

use super::{
    args::RunArgs,
    child::Job,
    exit::{Exit, Failure},
    front,
    inherited::Inherited,
    no_fork,
    protocol::Channel,
    store::Store,
    watchdog,
};
use crate::sys;

/// What the command line asked for, with all defaults filled in.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) store: Store,
    pub(super) job: Job,
    /// How long to wait for the lock: zero tries once, `None` has no limit.
    pub(super) wait: Option<Duration>,
    pub(super) ttl: Option<Duration>,
    pub(super) owner: Option<String>,
    pub(super) verbose: bool,
    pub(super) conflict_code: u8,
}

/// Runs it all; in the watchdog's process it does not return.
pub(super) fn run(args: RunArgs, inherited: Inherited) -> Result<Exit, Failure> {
    let no_fork = args.no_fork;
    let plan = plan(args, inherited)?;
    if no_fork {
        return no_fork::run(&plan);
    }
    let (front, watchdog) = Channel::pair().map_err(|e| Failure::os("making a socket pair", e))?;
    // Before anything that starts a thread: a forked copy of a process with threads may not do much.
    match sys::fork().map_err(|e| Failure::os("starting the watchdog", e))? {
        None => {
            drop(front);
            watchdog::main(watchdog, &plan.job)
        }
        Some(pid) => {
            drop(watchdog);
            front::main(&plan, front, pid)
        }
    }
}

fn plan(args: RunArgs, inherited: Inherited) -> Result<Plan, Failure> {
    let argv = match args.shell {
        Some(line) => vec![shell(), "-c".into(), line],
        None => args.argv,
    };
    Ok(Plan {
        store: Store::choose(&args.store)?,
        job: Job { name: args.name, argv, grace: args.grace, own_group: !has_terminal(), inherited },
        wait: if args.nonblock { Some(Duration::ZERO) } else { args.wait },
        ttl: args.ttl,
        owner: args.owner,
        verbose: args.verbose,
        conflict_code: args.conflict_exit_code,
    })
}

fn shell() -> OsString {
    env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into())
}

fn has_terminal() -> bool {
    OpenOptions::new().read(true).custom_flags(libc::O_NOCTTY).open("/dev/tty").is_ok()
}

/// A runtime of one thread: all that happens here is waiting.
pub(super) fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| Failure::os("starting a runtime", e))
}
