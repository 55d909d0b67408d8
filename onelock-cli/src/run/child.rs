//! The command: its environment and its start.

use std::{
    ffi::OsString,
    io::{self, Read as _, Write as _},
    process::Command,
    time::Duration,
};

use lock_core::{LockName, clock::ClockReading};
use nix::{
    sys::{prctl, signal::Signal},
    unistd::{Pid, getppid, setpgid},
};

use super::{
    inherited::InheritedState,
    outer_locks::{self, OuterLocks},
};
use crate::{exit, sys};

/// The command to run under the lock.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) name: LockName,
    /// The program and its arguments; never empty.
    pub(super) argv: Vec<OsString>,
    /// The grace time of `--grace`; see [`Job::grace`].
    pub(super) grace: Option<Duration>,
    /// Whether the command gets its own process group. On a terminal it stays in the group of
    /// `onelock`, because it would be a background job otherwise.
    pub(super) own_group: bool,
    pub(super) inherited: InheritedState,
    pub(super) outer_locks: OuterLocks,
}

/// Time between SIGTERM and SIGKILL, unless the user chose one.
const DEFAULT_GRACE: Duration = Duration::from_secs(5);

/// Returns the time between SIGTERM and SIGKILL for a lease, unless the user chose one.
///
/// It is at most a quarter of the lease. A lease is renewed after a third of its ttl, so the last
/// quarter begins only if several renewals have failed.
pub(crate) fn default_grace(lease: Option<Duration>) -> Duration {
    lease.map_or(DEFAULT_GRACE, |lease| DEFAULT_GRACE.min(lease / 4))
}

impl Job {
    /// Returns the time between SIGTERM and SIGKILL, for a lease that lasts for `lease` without a
    /// renewal.
    pub(super) fn grace(&self, lease: Option<Duration>) -> Duration {
        self.grace.unwrap_or_else(|| default_grace(lease))
    }

    fn command(&self, token: Option<u64>, deadline: Option<ClockReading>) -> Command {
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).env("ONELOCK_NAME", self.name.as_str());
        command.env(outer_locks::VARIABLE, self.outer_locks.with(&self.name, token));
        for (variable, value) in
            [("ONELOCK_TOKEN", token), ("ONELOCK_EXPIRES_AT", deadline.map(|at| at.wall.as_secs()))]
        {
            match value {
                Some(value) => command.env(variable, value.to_string()),
                // An outer lock may have set the variable.
                None => command.env_remove(variable),
            };
        }
        command
    }

    /// Starts the command as a child that dies with this process. Calls `before_start` after the
    /// fork and before the child becomes the command.
    pub(super) fn spawn(
        &self,
        token: Option<u64>,
        deadline: Option<ClockReading>,
        before_start: impl FnOnce(),
    ) -> io::Result<Pid> {
        let (mut start_reader, mut start_writer) = io::pipe()?;
        let (mut errno_reader, mut errno_writer) = io::pipe()?;
        let parent = Pid::this();
        if let Some(child) = sys::fork()? {
            drop((start_reader, errno_writer));
            before_start();
            let mut errno = [0; 4];
            // A successful exec closes the other end, and the read ends without a byte.
            let refused = start_writer.write_all(&[0]).map(|()| errno_reader.read_exact(&mut errno).is_ok());
            let error = match refused {
                Ok(false) => return Ok(child),
                Ok(true) => io::Error::from_raw_os_error(i32::from_ne_bytes(errno)),
                Err(error) => error,
            };
            sys::kill_and_reap(child);
            return Err(error);
        }
        drop((start_writer, errno_reader));
        let error = self.run_child(parent, &mut start_reader, token, deadline);
        let _ = errno_writer.write_all(&error.raw_os_error().unwrap_or(libc::EINVAL).to_ne_bytes());
        sys::exit_now(i32::from(exit::OS))
    }

    /// Becomes the command, in the child; returns only on failure.
    fn run_child(
        &self,
        parent: Pid,
        start_reader: &mut io::PipeReader,
        token: Option<u64>,
        deadline: Option<ClockReading>,
    ) -> io::Error {
        if let Err(error) = prctl::set_pdeathsig(Signal::SIGKILL) {
            return error.into();
        }
        // The parent may have died before that call.
        if getppid() != parent {
            sys::exit_now(i32::from(exit::OS));
        }
        if self.own_group
            && let Err(error) = setpgid(Pid::from_raw(0), Pid::from_raw(0))
        {
            return error.into();
        }
        match start_reader.read_exact(&mut [0]) {
            Ok(()) => self.exec(token, deadline),
            // The parent died, which closed the pipe.
            Err(error) => error,
        }
    }

    /// Becomes the command; returns only on failure.
    pub(super) fn exec(&self, token: Option<u64>, deadline: Option<ClockReading>) -> io::Error {
        use std::os::unix::process::CommandExt;
        let mut command = self.command(token, deadline);
        let inherited = self.inherited.clone();
        sys::before_exec(&mut command, move || Ok(inherited.restore_signals()?)).exec()
    }
}
