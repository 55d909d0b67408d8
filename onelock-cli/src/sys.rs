//! System calls without a safe Rust wrapper. All `unsafe` of the command is here.
#![allow(unsafe_code, reason = "fork, exec hooks, raw signal numbers and pidfds have no safe wrapper")]

use std::{
    ffi::{CStr, OsString, c_char, c_int},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::{
            ffi::OsStringExt,
            process::{CommandExt, ExitStatusExt},
        },
    },
    process::{Command, ExitStatus},
};

use nix::unistd::Pid;
use tokio::io::{Interest, unix::AsyncFd};

/// Returns the arguments of the C `main`.
#[cfg_attr(test, allow(dead_code, reason = "tests have a main of their own"))]
pub(crate) fn arguments(argc: c_int, argv: *const *const c_char) -> Vec<OsString> {
    let count = usize::try_from(argc).unwrap_or(0);
    // SAFETY: the C library passes `argc` pointers to strings that end in NUL and live as long as
    // the process.
    (0..count).map(|i| OsString::from_vec(unsafe { CStr::from_ptr(*argv.add(i)) }.to_bytes().to_vec())).collect()
}

/// Forks, and returns `None` in the child. The process must have a single thread: then the child
/// may do everything that the parent may.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: no other thread exists that could hold a lock which the child needs: this is called
    // before any runtime starts.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(Pid::from_raw(pid))),
    }
}

/// Ends this process at once. Exit handlers and destructors do not run, because a forked copy must
/// not run those of its parent.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Runs `hook` in the child between fork and exec, or before an exec in place.
pub(crate) fn before_exec(
    command: &mut Command,
    hook: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) -> &mut Command {
    // SAFETY: the forking process has a single thread, and the hooks given here make system calls
    // only.
    unsafe { command.pre_exec(hook) }
}

/// Returns the next change of state of any child without blocking; `None` if there is none now.
///
/// It does not use `nix::sys::wait::waitpid`, which fails for a child that died of a real-time
/// signal.
pub(crate) fn next_change() -> io::Result<Option<(Pid, ExitStatus)>> {
    let mut status = 0;
    // SAFETY: `status` is writable.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::WUNTRACED) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some((Pid::from_raw(pid), ExitStatus::from_raw(status)))),
    }
}

/// Kills a child that has nothing left to do, and reaps it. In a container whose first process does
/// not reap, a zombie would stay otherwise.
pub(crate) fn kill_and_reap(child: Pid) {
    let wait = |flags| {
        // SAFETY: a null status is allowed.
        unsafe { libc::waitpid(child.as_raw(), std::ptr::null_mut(), flags) }
    };
    // Only if the child has not been reaped, because its pid may belong to another process then.
    if wait(libc::WNOHANG) == 0 {
        let _ = kill(child, libc::SIGKILL);
        wait(0);
    }
}

/// Reaps `child` if it has ended.
pub(crate) fn reap(child: Pid) {
    // SAFETY: a null status is allowed.
    unsafe { libc::waitpid(child.as_raw(), std::ptr::null_mut(), libc::WNOHANG) };
}

/// Sends a signal, which may be a real-time signal.
pub(crate) fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: `kill` has no preconditions on memory.
    check(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}

/// Sends a signal to the process group `group`.
pub(crate) fn kill_group(group: Pid, signal: i32) -> io::Result<()> {
    kill(Pid::from_raw(-group.as_raw()), signal)
}

/// Lets a blocked `signal` act on this process as its disposition says (die, stop, nothing), and
/// blocks it again.
pub(crate) fn deliver_to_self(signal: i32) {
    // SAFETY: the set is initialised by `sigemptyset` before its use; the other calls have no
    // preconditions.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::raise(signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// Whether a blocked `signal` waits to be read.
pub(crate) fn is_pending(signal: i32) -> bool {
    // SAFETY: the set is written by `sigpending` before its use.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigpending(&raw mut set) == 0 && libc::sigismember(&raw const set, signal) == 1
    }
}

/// Whether `signal` is ignored.
pub(crate) fn is_ignored(signal: i32) -> bool {
    // SAFETY: a null new action leaves the disposition as it is; `old` is writable.
    unsafe {
        let mut old = std::mem::zeroed::<libc::sigaction>();
        libc::sigaction(signal, std::ptr::null(), &raw mut old) == 0 && old.sa_sigaction == libc::SIG_IGN
    }
}

/// Sets `signal` to "ignore" or to its default action.
pub(crate) fn set_ignored(signal: i32, ignored: bool) {
    // SAFETY: neither disposition runs code of ours.
    unsafe {
        libc::signal(signal, if ignored { libc::SIG_IGN } else { libc::SIG_DFL });
    }
}

/// Opens a descriptor that always refers to this process, even if its pid is reused.
pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: on success this is a new descriptor without another owner; it is close-on-exec by
    // definition.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as c_int)) }
    }
}

/// Sends a signal to the process of a pidfd.
pub(crate) fn pidfd_kill(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo makes it the same as `kill`.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, info, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets the runtime wait until a descriptor is readable.
#[allow(
    deprecated,
    reason = "unsound only for types that give up their descriptor; the successor is unsafe and needs tokio 1.54"
)]
pub(crate) fn watch_reads<T: AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(owner, Interest::READABLE)
}

/// Takes ownership of a descriptor that arrived in a message.
pub(crate) fn adopt(received: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just created this descriptor, so it has no other owner.
    unsafe { OwnedFd::from_raw_fd(received) }
}

/// Unlocks the `flock(2)` lock of a descriptor and of all its copies.
pub(crate) fn unlock(lock: BorrowedFd<'_>) {
    // SAFETY: `flock` has no preconditions on memory.
    unsafe {
        libc::flock(lock.as_raw_fd(), libc::LOCK_UN);
    }
}

/// Whether `fd` is an open descriptor.
pub(crate) fn is_open(fd: RawFd) -> bool {
    // SAFETY: `F_GETFD` has no preconditions.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
