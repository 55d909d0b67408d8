//! The signals that reach us, read from a descriptor.

use std::io;

use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::unix::AsyncFd;

use super::inherited::handled_signals;
use crate::sys;

/// `si_code` of a signal that the kernel itself sent.
const SI_KERNEL: i32 = 0x80;

/// Those that a terminal sends to all processes of its foreground job.
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

/// Those that end no process by default.
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

/// A signal that was sent to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) number: i32,
    /// A terminal sent it, to every process of the job.
    pub(super) by_terminal: bool,
}

impl Received {
    /// Whether it ends a process that has made no arrangements for it, as ours were when we were started.
    pub(super) fn is_fatal(self) -> bool {
        !HARMLESS.contains(&self.number) && !sys::is_ignored(self.number)
    }
}

/// All signals that [`Inherited::capture`](super::inherited::Inherited::capture) has blocked.
#[derive(Debug)]
pub(super) struct Signals(AsyncFd<SignalFd>);

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let fd = SignalFd::with_flags(&handled_signals(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self(sys::watch_reads(fd)?))
    }

    /// The next signal. Cancel safe: a signal is either returned or still there.
    pub(super) async fn next(&self) -> io::Result<Received> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.get_inner().read_signal()? {
                None => ready.clear_ready(),
                Some(info) => {
                    let number = info.ssi_signo as i32;
                    let by_terminal = info.ssi_code == SI_KERNEL && FROM_TERMINALS.contains(&number);
                    return Ok(Received { number, by_terminal });
                }
            }
        }
    }
}
