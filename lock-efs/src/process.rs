//! The process that holds a lock, as its record and as the kernel name it.

use std::{fmt, fs, process};

use nix::{
    errno::Errno,
    sys::{signal::kill, stat::stat},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// The process that wrote a record. Its number has a meaning only in its namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedProcess {
    pid: u32,
    pid_namespace: u64,
}

impl RecordedProcess {
    /// Returns this process, if the system shows its namespace.
    pub(crate) fn current() -> Option<Self> {
        let pid_namespace = stat("/proc/self/ns/pid").ok()?.st_ino;
        Some(Self { pid: process::id(), pid_namespace })
    }

    /// Returns whether the process has certainly ended: it ran in this process's namespace, and no
    /// process there has its number.
    pub(crate) fn has_ended(self) -> bool {
        let pid = i32::try_from(self.pid).ok().filter(|&pid| pid > 0);
        Self::current().is_some_and(|own| own.pid_namespace == self.pid_namespace)
            && pid.is_some_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
    }
}

/// The process that locked a file, by the kernel's list of locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LockingProcess {
    pub(crate) pid: u32,
    /// Whether its lock is a shared one, as that of `flock -s`. Then other processes may have
    /// locked the file too.
    pub(crate) shared: bool,
}

impl LockingProcess {
    /// Returns whether this is the recorded process. The kernel lists it even after its end, if a
    /// child keeps the lock.
    pub(crate) fn is(self, recorded: RecordedProcess) -> bool {
        self.pid == recorded.pid
    }
}

impl fmt::Display for LockingProcess {
    /// One line: `process 4711 (flock)`. The program's name is chosen by its user, and escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        match fs::read_to_string(format!("/proc/{}/comm", self.pid)) {
            Ok(program) => write!(f, " ({})", program.trim_end().escape_debug()),
            Err(_) => f.write_str(" (which has ended; another process keeps its lock)"),
        }
    }
}
