//! The command: its environment, and how it is started.

use std::{
    ffi::OsString,
    io::{self, Read as _, Write as _},
    process::Command,
    time::Duration,
};

use lock_core::{LockName, clock::Moment};
use nix::{
    sys::{prctl, signal::Signal},
    unistd::{Pid, getppid, setpgid},
};

use super::inherited::Inherited;
use crate::sys;

/// What is to be run under the lock.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) name: LockName,
    /// The program and its arguments; never empty.
    pub(super) argv: Vec<OsString>,
    /// As the user asked; see [`Job::grace`].
    pub(super) grace: Option<Duration>,
    /// Whether the command gets a process group of its own. On a terminal it stays in ours, or it would be a background job.
    pub(super) own_group: bool,
    pub(super) inherited: Inherited,
}

/// Time to clean up in before SIGKILL, unless the user chose one.
const GRACE: Duration = Duration::from_secs(5);

impl Job {
    /// The time between SIGTERM and SIGKILL, for a lease that lasts for `lease` without a renewal. A lease is renewed when a
    /// third of its ttl is over; a quarter before its end nobody expects the next renewal any more.
    pub(super) fn grace(&self, lease: Option<Duration>) -> Duration {
        self.grace.unwrap_or_else(|| lease.map_or(GRACE, |lease| GRACE.min(lease / 4)))
    }

    fn command(&self, token: Option<u64>, deadline: Option<Moment>) -> Command {
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).env("ONELOCK_NAME", self.name.as_str());
        for (variable, value) in
            [("ONELOCK_TOKEN", token), ("ONELOCK_EXPIRES_AT", deadline.map(|at| at.wall.as_secs()))]
        {
            match value {
                Some(value) => command.env(variable, value.to_string()),
                // Of another lock that we were started under.
                None => command.env_remove(variable),
            };
        }
        command
    }

    /// Starts the command as a child of this process, which it does not survive. Calls `first` when there is a child, and before that becomes
    /// the command.
    pub(super) fn spawn(&self, token: Option<u64>, deadline: Option<Moment>, first: impl FnOnce()) -> io::Result<Pid> {
        let (mut go, mut hold) = io::pipe()?;
        let (mut failure, mut failed) = io::pipe()?;
        let parent = Pid::this();
        if let Some(child) = sys::fork()? {
            drop((go, failed));
            first();
            let mut errno = [0; 4];
            // The read ends without a byte when the exec closes the other end.
            let refused = hold.write_all(&[0]).map(|()| failure.read_exact(&mut errno).is_ok());
            let error = match refused {
                Ok(false) => return Ok(child),
                Ok(true) => io::Error::from_raw_os_error(i32::from_ne_bytes(errno)),
                Err(error) => error,
            };
            sys::see_off(child);
            return Err(error);
        }
        drop((hold, failure));
        let error = self.become_command(parent, &mut go, token, deadline);
        let _ = failed.write_all(&error.raw_os_error().unwrap_or(libc::EINVAL).to_ne_bytes());
        sys::exit_now(i32::from(super::exit::OS))
    }

    /// In the child; returns only when that fails.
    fn become_command(
        &self,
        parent: Pid,
        go: &mut io::PipeReader,
        token: Option<u64>,
        deadline: Option<Moment>,
    ) -> io::Error {
        if let Err(error) = prctl::set_pdeathsig(Signal::SIGKILL) {
            return error.into();
        }
        // The parent may have died before that call.
        if getppid() != parent {
            sys::exit_now(i32::from(super::exit::OS));
        }
        if self.own_group
            && let Err(error) = setpgid(Pid::from_raw(0), Pid::from_raw(0))
        {
            return error.into();
        }
        match go.read_exact(&mut [0]) {
            Ok(()) => self.exec(token, deadline),
            // Closed by the parent's death.
            Err(error) => error,
        }
    }

    /// Becomes the command; returns only when that fails.
    pub(super) fn exec(&self, token: Option<u64>, deadline: Option<Moment>) -> io::Error {
        use std::os::unix::process::CommandExt;
        let mut command = self.command(token, deadline);
        let inherited = self.inherited.clone();
        sys::before_exec(&mut command, move || Ok(inherited.restore_signals()?)).exec()
    }
}
