//! The plan of `onelock run`: its options with all defaults filled in.

use std::{env, ffi::OsString, fs::OpenOptions, os::unix::fs::OpenOptionsExt, time::Duration};

use lock_core::Mode;

use super::{child::Job, inherited::InheritedState, outer_locks::OuterLocks};
use crate::args::{RunArgs, StoreArgs};

/// The options of the command line, with all defaults filled in.
#[derive(Debug)]
pub(super) struct Plan {
    /// Chosen only when signals are handled, because a file system may hang.
    pub(super) store: StoreArgs,
    pub(super) job: Job,
    /// How long to wait for the lock: zero tries once, `None` waits without a limit.
    pub(super) wait: Option<Duration>,
    pub(super) mode: Mode,
    pub(super) ttl: Option<Duration>,
    pub(super) owner: Option<String>,
    pub(super) verbose: bool,
    pub(super) conflict_code: u8,
}

impl Plan {
    /// Fills in the defaults.
    pub(super) fn new(args: RunArgs, inherited: InheritedState) -> Self {
        let mode = args.mode();
        let argv = match args.shell {
            Some(line) => vec![shell(), "-c".into(), line],
            None => args.argv,
        };
        Self {
            store: args.store,
            job: Job {
                name: args.name,
                argv,
                grace: args.grace,
                own_group: !has_terminal(),
                inherited,
                outer_locks: OuterLocks::from_environment(args.owner.is_none()),
            },
            wait: if args.nonblock { Some(Duration::ZERO) } else { args.wait },
            mode,
            ttl: args.ttl,
            owner: args.owner,
            verbose: args.verbose,
            conflict_code: args.conflict_exit_code,
        }
    }
}

fn shell() -> OsString {
    env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into())
}

fn has_terminal() -> bool {
    OpenOptions::new().read(true).custom_flags(libc::O_NOCTTY).open("/dev/tty").is_ok()
}
