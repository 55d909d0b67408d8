//! Reads the signals of this process from a descriptor.

use std::{io, ops::ControlFlow, sync::Arc};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use tokio::{io::unix::AsyncFd, sync::Notify};

use super::inherited::handled_signals;
use crate::{exit::Failure, sys};

/// The `si_code` of a signal that the kernel itself sent.
const SI_KERNEL: i32 = 0x80;

/// The signals that a terminal sends to all processes of its foreground job.
const FROM_TERMINALS: [i32; 8] = [
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGHUP,
    libc::SIGCONT,
    libc::SIGWINCH,
];

/// The signals that end no process by default.
const HARMLESS: [i32; 8] = [
    libc::SIGCHLD,
    libc::SIGURG,
    libc::SIGWINCH,
    libc::SIGCONT,
    libc::SIGSTOP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// A signal that was sent to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReceivedSignal {
    pub(crate) number: i32,
    /// Whether a terminal sent it, to every process of the job.
    pub(crate) by_terminal: bool,
}

impl ReceivedSignal {
    /// Whether it ends a process with the dispositions that this one was started with.
    pub(crate) fn is_fatal(self) -> bool {
        !HARMLESS.contains(&self.number) && !sys::is_ignored(self.number)
    }
}

/// The signals by which people and service managers ask a program to end.
const TERMINATION: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Blocked signals, which are read instead of acting on the process.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: AsyncFd<SignalFd>,
    set: SigSet,
    child_ended: Arc<Notify>,
}

impl Signals {
    /// Reads all signals that
    /// [`InheritedState::block_signals`](super::inherited::InheritedState::block_signals) has
    /// blocked.
    pub(crate) fn all() -> Result<Self, Failure> {
        Self::of(handled_signals()).map_err(|e| Failure::os("reading signals", e))
    }

    /// Blocks and reads the termination signals, for a command that has to clean up first.
    ///
    /// Must be called with a single thread. Processes that are started afterwards inherit the
    /// blocked signals, so this process has to end them.
    pub(crate) fn block_termination() -> Result<Self, Failure> {
        let set: SigSet = TERMINATION.into_iter().collect();
        let blocked = set.thread_block().map_err(io::Error::from).and_then(|()| Self::of(set));
        blocked.map_err(|e| Failure::os("reading signals", e))
    }

    fn of(set: SigSet) -> io::Result<Self> {
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd: sys::watch_reads(fd)?, set, child_ended: Arc::default() })
    }

    /// Is notified when SIGCHLD is read.
    pub(super) fn child_ended(&self) -> Arc<Notify> {
        Arc::clone(&self.child_ended)
    }

    /// Unblocks the signals: a second signal ends the process without waiting for the cleanup.
    pub(crate) fn unblock(&self) {
        let _ = self.set.thread_unblock();
    }

    /// Runs `work` until it ends or a fatal signal arrives, which drops `work`. Other signals act
    /// as their disposition says.
    pub(crate) async fn race<T>(&self, work: impl Future<Output = T>) -> Result<ControlFlow<i32, T>, Failure> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                signal = self.next() => {
                    let signal = signal.map_err(|e| Failure::os("reading signals", e))?;
                    if signal.is_fatal() {
                        return Ok(ControlFlow::Break(signal.number));
                    }
                    sys::deliver_to_self(signal.number);
                }
                done = &mut work => return Ok(ControlFlow::Continue(done)),
            }
        }
    }

    /// Returns the next signal. Cancel safe: a signal is either returned or stays pending.
    pub(crate) async fn next(&self) -> io::Result<ReceivedSignal> {
        loop {
            let mut ready = self.fd.readable().await?;
            match ready.get_inner().read_signal()? {
                None => ready.clear_ready(),
                Some(info) => {
                    let number = info.ssi_signo as i32;
                    if number == libc::SIGCHLD {
                        self.child_ended.notify_one();
                    }
                    let by_terminal = info.ssi_code == SI_KERNEL && FROM_TERMINALS.contains(&number);
                    return Ok(ReceivedSignal { number, by_terminal });
                }
            }
        }
    }
}
