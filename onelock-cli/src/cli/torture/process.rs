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

use super::link::Link;
use crate::cli::tree;

/// What is done to a process, one at a time for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    Frozen,
    CutOff,
}

/// One of the processes that contend; killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) number: u64,
    child: Child,
    pub(super) link: Option<Link>,
    /// Until when, and what.
    pub(super) trouble: Option<(Instant, Trouble)>,
}

impl Process {
    pub(super) fn new(number: u64, child: Child, link: Option<Link>) -> Self {
        Self { number, child, link, trouble: None }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("the kernel's pids are i32"))
    }

    /// How it ended, once it has.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Sends `signal`, unless the process has ended; whether it was sent.
    pub(super) fn signal(&mut self, signal: Signal) -> bool {
        // Once waited for, its pid may be a stranger's. Nobody else waits for it, so what is here now stays here until we look again.
        matches!(self.child.try_wait(), Ok(None)) && kill(self.pid(), signal).is_ok()
    }

    /// Whether it is stopped now, whoever did it.
    pub(super) fn stands_still(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None)) && tree::is_stopped(self.pid())
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
        assert!(!process.stands_still());
    }

    #[test]
    fn one_that_is_dropped_is_killed_and_waited_for() {
        let process = process("sleep", "1000");
        let pid = process.pid();
        drop(process);
        assert_eq!(kill(pid, None), Err(nix::errno::Errno::ESRCH));
    }
}
