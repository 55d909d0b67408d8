//! What we were started with and must hand on to the command unchanged: signal mask, ignored
//! signals, descriptors.

use std::{fs::OpenOptions, os::fd::RawFd, os::unix::fs::OpenOptionsExt};

use nix::sys::signal::{SigSet, Signal};

use crate::sys;

/// The signals whose disposition we change for ourselves.
const CHANGED_SIGNALS: [i32; 2] = [libc::SIGPIPE, libc::SIGCHLD];

/// Signals that report a fault of our own, or a limit that each process meets for itself. They are
/// never blocked.
const NEVER_BLOCKED: [Signal; 9] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGABRT,
    Signal::SIGSYS,
    Signal::SIGXCPU,
    Signal::SIGXFSZ,
];

/// The process state at our start.
#[derive(Debug, Clone)]
pub(crate) struct InheritedState {
    mask: SigSet,
    ignored: [bool; CHANGED_SIGNALS.len()],
    descriptors: Vec<RawFd>,
}

/// Every signal that we read from a descriptor instead of letting it act on us.
pub(crate) fn handled_signals() -> SigSet {
    let mut set = SigSet::all();
    NEVER_BLOCKED.iter().for_each(|signal| set.remove(*signal));
    set
}

impl InheritedState {
    /// Notes the state. To be called first.
    pub(crate) fn capture() -> nix::Result<Self> {
        fill_standard_descriptors();
        let descriptors = open_descriptors();
        let ignored = CHANGED_SIGNALS.map(sys::is_ignored);
        let mask = SigSet::thread_get_mask()?;
        // A closed standard error must not kill us; and with SIGCHLD ignored, the kernel would keep
        // the command's status from us.
        sys::set_ignored(libc::SIGPIPE, true);
        sys::set_ignored(libc::SIGCHLD, false);
        Ok(Self { mask, ignored, descriptors })
    }

    /// Blocks all signals that are handled: from now on somebody has to read them
    /// ([`Signals`](super::signals::Signals)), or we are deaf. To be called with a single thread.
    pub(crate) fn block_signals(&self) -> nix::Result<()> {
        handled_signals().thread_set_mask()
    }

    /// Gives the calling process the signal state that we were started with. Makes system calls
    /// only.
    pub(crate) fn restore_signals(&self) -> nix::Result<()> {
        for (signal, ignored) in CHANGED_SIGNALS.iter().zip(self.ignored) {
            sys::set_ignored(*signal, ignored);
        }
        self.mask.thread_set_mask()
    }

    /// Closes our copies of the descriptors that were meant for the command, so that a reader at
    /// the other end sees the end of the data when the command closes them. Standard error stays
    /// open for our messages if `keep_stderr`.
    pub(crate) fn close_command_descriptors(&self, keep_stderr: bool) {
        for fd in &self.descriptors {
            let _ = nix::unistd::close(*fd);
        }
        let Ok(null) = null_device() else { return };
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        if !keep_stderr {
            let _ = nix::unistd::dup2_stderr(&null);
        }
    }
}

fn null_device() -> std::io::Result<std::fs::File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/null")
}

/// Where we were started with a closed standard descriptor, a socket or lock file of ours must not
/// get its number. The filler is close-on-exec, so that the command finds the descriptor closed, as
/// we did.
fn fill_standard_descriptors() {
    use std::os::fd::{AsRawFd, IntoRawFd};
    while let Ok(null) = null_device() {
        if null.as_raw_fd() > 2 {
            return;
        }
        let _ = null.into_raw_fd();
    }
}

/// All open descriptors but the standard ones.
fn open_descriptors() -> Vec<RawFd> {
    let Ok(directory) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let mut open: Vec<RawFd> =
        directory.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|fd| *fd > 2).collect();
    // One of them was the directory itself, closed by now: `fcntl` tells.
    open.retain(|fd| sys::is_open(*fd));
    open
}
