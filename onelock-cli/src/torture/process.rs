//! The processes of a run, as their parent sees them.

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

/// What is done to a process, one at a time for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProcessFault {
    Frozen,
    CutOff,
}

/// One of the processes that contend; killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) number: u64,
    child: Child,
    pub(super) proxy: Option<ProcessProxy>,
    /// Until when, and what.
    pub(super) fault: Option<(Instant, ProcessFault)>,
}

impl Process {
    pub(super) fn new(number: u64, child: Child, proxy: Option<ProcessProxy>) -> Self {
        Self { number, child, proxy, fault: None }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("the kernel's pids are i32"))
    }

    /// How it ended, once it has.
    pub(super) fn exit_status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Sends `signal`, unless the process has ended; whether it was sent.
    pub(super) fn signal(&mut self, signal: Signal) -> bool {
        // Once waited for, its pid may be a stranger's. Nobody else waits for it, so what is here
        // now stays here until we look again.
        matches!(self.child.try_wait(), Ok(None)) && kill(self.pid(), signal).is_ok()
    }

    /// Whether it is stopped now, whoever did it.
    pub(super) fn is_stopped(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None)) && process_tree::is_stopped(self.pid())
    }

    /// Ends it, and waits for its end.
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
    fn one_that_has_ended_and_was_waited_for_gets_no_signal() {
        let mut process = process("sleep", "1000");
        assert!(process.signal(Signal::SIGCONT));
        let number = process.child.id();
        assert_eq!(process.kill().unwrap().code(), None);
        assert!(!process.signal(Signal::SIGCONT), "{number} is not ours any more");
        assert!(!process.is_stopped());
    }

    #[test]
    fn one_that_is_dropped_is_killed_and_waited_for() {
        let process = process("sleep", "1000");
        let pid = process.pid();
        drop(process);
        assert_eq!(kill(pid, None), Err(nix::errno::Errno::ESRCH));
    }
}
