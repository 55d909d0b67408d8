//! A process of a run, as its parent sees it.

use std::{
    io,
    process::{Child, ExitStatus},
    time::Instant,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::route::ProcessProxy;
use crate::run::process_tree;

/// The fault of a process, which has at most one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProcessFault {
    Frozen,
    CutOff,
}

/// A contending process; killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) number: u64,
    child: Child,
    pub(super) proxy: Option<ProcessProxy>,
    /// The end of the fault, and its kind.
    pub(super) fault: Option<(Instant, ProcessFault)>,
}

impl Process {
    pub(super) fn new(number: u64, child: Child, proxy: Option<ProcessProxy>) -> Self {
        Self { number, child, proxy, fault: None }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("the kernel's pids are i32"))
    }

    /// Returns the exit status, once the process has ended.
    pub(super) fn exit_status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Sends `signal`, unless the process has ended; returns whether it was sent.
    pub(super) fn signal(&mut self, signal: Signal) -> bool {
        // A reaped process's pid may belong to another process. Only this object reaps the child,
        // so a pid that is valid now stays valid until the next call.
        matches!(self.child.try_wait(), Ok(None)) && kill(self.pid(), signal).is_ok()
    }

    /// Whether the process is stopped, by the parent or by itself.
    pub(super) fn is_stopped(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None)) && process_tree::is_stopped(self.pid())
    }

    /// Kills the process, and waits for its end.
    pub(super) fn kill(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::SIGKILL);
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn process(program: &str, argument: &str) -> Process {
        Process::new(0, Command::new(program).arg(argument).spawn().unwrap(), None)
    }

    #[test]
    fn a_reaped_process_gets_no_signal() {
        let mut process = process("sleep", "1000");
        assert!(process.signal(Signal::SIGCONT));
        let number = process.child.id();
        assert_eq!(process.kill().unwrap().code(), None);
        assert!(!process.signal(Signal::SIGCONT), "the pid {number} was reaped");
        assert!(!process.is_stopped());
    }

    #[test]
    fn a_dropped_process_is_killed_and_reaped() {
        let process = process("sleep", "1000");
        let pid = process.pid();
        drop(process);
        assert_eq!(kill(pid, None), Err(nix::errno::Errno::ESRCH));
    }
}
