//! The plan of `onelock run`: its options with all defaults filled in.

use std::{
    env,
    ffi::OsString,
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::OnceLock,
    time::{Duration, Instant},
};

use lock_core::{LockName, Mode};

use super::{child::Job, inherited::InheritedState, outer_locks::OuterLocks, progress::Talk};
use crate::{
    args::{LimitArgs, LockArgs, RunArgs, StoreArgs},
    exit::Failure,
    target::Target,
    who::Who,
};

/// The lock to acquire, with all defaults filled in.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The name in the store.
    pub(crate) name: LockName,
    /// The name in messages and for the command.
    pub(crate) shown: LockName,
    /// Chosen only when signals are handled, because a file system may hang.
    pub(crate) store: StoreArgs,
    pub(crate) store_names: StoreNames,
    /// How long to wait for the lock: zero tries once, `None` waits without a limit.
    pub(crate) wait: Option<Duration>,
    pub(crate) mode: Mode,
    pub(crate) fair: bool,
    pub(crate) spread: Option<Duration>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) grace: Option<Duration>,
    pub(crate) limits: LimitArgs,
    /// The start of the command, from which its deadline counts.
    pub(crate) began: Instant,
    pub(crate) owner: Option<String>,
    /// Whether this process becomes the command, so that nothing limits how long the lock is held.
    pub(crate) becomes_command: bool,
    /// What others can read about this process.
    pub(crate) data: Vec<u8>,
    pub(crate) talk: Talk,
    pub(crate) conflict_code: u8,
    pub(crate) outer_locks: OuterLocks,
}

/// The names of the store without secrets, as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct StoreNames {
    /// As the user chose it.
    pub(crate) chosen: OnceLock<String>,
    /// As the open store calls itself.
    pub(crate) opened: OnceLock<String>,
}

impl Wanted {
    /// Fills in the defaults.
    pub(crate) fn new(name: LockName, args: LockArgs, who: &Who) -> Result<Self, Failure> {
        let (mode, talk) = (args.mode(), talk_of(&args));
        let Target { name, shown, store } = Target::new(name, args.store)?;
        Ok(Self {
            name,
            shown,
            mode,
            fair: args.fair,
            spread: args.spread,
            store,
            store_names: StoreNames::default(),
            wait: if args.nonblock { Some(Duration::ZERO) } else { args.wait },
            ttl: args.ttl,
            grace: args.grace,
            limits: args.limits,
            began: Instant::now(),
            outer_locks: OuterLocks::from_environment(args.owner.is_none()),
            owner: args.owner,
            becomes_command: who.no_fork,
            data: who.data(),
            talk,
            conflict_code: args.conflict_exit_code,
        })
    }
}

fn talk_of(args: &LockArgs) -> Talk {
    match (args.quiet, args.verbose > 0) {
        (true, _) => Talk::Quiet,
        (false, true) => Talk::Verbose,
        (false, false) => Talk::Usual,
    }
}

/// The options of the command line, with all defaults filled in.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) wanted: Wanted,
    pub(super) job: Job,
    pub(super) metrics_file: Option<PathBuf>,
}

impl Plan {
    /// Fills in the defaults.
    pub(super) fn new(args: RunArgs, inherited: InheritedState) -> Result<Self, Failure> {
        let argv = match args.shell {
            Some(line) => vec![shell(), "-c".into(), line],
            None => args.argv,
        };
        let who = Who { no_fork: args.no_fork, ..Who::this_process(&argv[0]) };
        let wanted = Wanted::new(args.name, args.lock, &who)?;
        let job = Job {
            name: wanted.shown.clone(),
            argv,
            grace: wanted.grace,
            own_group: !has_terminal(),
            inherited,
            outer_locks: wanted.outer_locks.clone(),
        };
        Ok(Self { wanted, job, metrics_file: args.metrics_file })
    }
}

fn shell() -> OsString {
    env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into())
}

fn has_terminal() -> bool {
    OpenOptions::new().read(true).custom_flags(libc::O_NOCTTY).open("/dev/tty").is_ok()
}
