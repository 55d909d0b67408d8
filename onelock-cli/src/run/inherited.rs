//! The inherited process state that the command must receive unchanged: signal mask, ignored
//! signals, descriptors.

use std::{fs::OpenOptions, os::fd::RawFd, os::unix::fs::OpenOptionsExt};

use nix::sys::signal::{SigSet, Signal};

use crate::sys;

/// The signals whose disposition `onelock` changes for itself.
const CHANGED_SIGNALS: [i32; 2] = [libc::SIGPIPE, libc::SIGCHLD];

/// Signals that report a fault or an exceeded limit of this very process. They are never
/// blocked.
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

/// The process state at the start of `onelock`.
#[derive(Debug, Clone)]
pub(crate) struct InheritedState {
    mask: SigSet,
    ignored: [bool; CHANGED_SIGNALS.len()],
    descriptors: Vec<RawFd>,
}

/// Returns the signals that are read from a descriptor, instead of acting on the process.
pub(crate) fn handled_signals() -> SigSet {
    let mut set = SigSet::all();
    NEVER_BLOCKED.iter().for_each(|signal| set.remove(*signal));
    set
}

impl InheritedState {
    /// Records the state. Must be called first.
    pub(crate) fn capture() -> nix::Result<Self> {
        fill_standard_descriptors();
        let descriptors = open_descriptors();
        let ignored = CHANGED_SIGNALS.map(sys::is_ignored);
        let mask = SigSet::thread_get_mask()?;
        // A closed standard error must not kill the process. If SIGCHLD were ignored, the kernel
        // would not report the command's status.
        sys::set_ignored(libc::SIGPIPE, true);
        sys::set_ignored(libc::SIGCHLD, false);
        Ok(Self { mask, ignored, descriptors })
    }

    /// Blocks all signals that are handled. From then on [`Signals`](super::signals::Signals) must
    /// read them, because they have no effect otherwise. Must be called with a single thread.
    pub(crate) fn block_signals(&self) -> nix::Result<()> {
        handled_signals().thread_set_mask()
    }

    /// Restores the inherited signal state in the calling process. Makes only system calls.
    pub(crate) fn restore_signals(&self) -> nix::Result<()> {
        for (signal, ignored) in CHANGED_SIGNALS.iter().zip(self.ignored) {
            sys::set_ignored(*signal, ignored);
        }
        self.mask.thread_set_mask()
    }

    /// Closes this process's copies of the descriptors that are meant for the command. A reader at
    /// the other end then sees the end of the data as soon as the command closes them. With
    /// `keep_stderr`, standard error stays open for messages.
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

/// Fills closed standard descriptors, so that no socket or lock file gets such a number. The
/// fillers are close-on-exec, so that the command still finds these descriptors closed.
fn fill_standard_descriptors() {
    use std::os::fd::{AsRawFd, IntoRawFd};
    while let Ok(null) = null_device() {
        if null.as_raw_fd() > 2 {
            return;
        }
        let _ = null.into_raw_fd();
    }
}

/// Returns all open descriptors except the standard ones.
fn open_descriptors() -> Vec<RawFd> {
    let Ok(directory) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let mut open: Vec<RawFd> =
        directory.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|fd| *fd > 2).collect();
    // One of them was the directory itself, which is closed by now; `fcntl` finds it.
    open.retain(|fd| sys::is_open(*fd));
    open
}
