//! The standard streams, moved out of the way of programs that a library may start.

use std::{
    fs::{File, OpenOptions},
    future::pending,
    io::{self, Read as _},
    os::fd::AsFd,
    thread,
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tokio::{io::unix::AsyncFd, sync::oneshot};

use crate::{exit::Failure, sys};

/// Takes the standard input. No other program inherits it, and reads of fd 0 find the end.
pub(super) fn take_stdin() -> Result<File, Failure> {
    let null = OpenOptions::new().read(true).open("/dev/null");
    let taken = private_copy(io::stdin()).and_then(|input| {
        nix::unistd::dup2_stdin(null?)?;
        Ok(input)
    });
    taken.map_err(|e| Failure::os("moving the standard input", e))
}

/// Takes the standard output. No other program inherits it, so its end is the end of this process.
pub(super) fn take_stdout() -> Result<File, Failure> {
    let null = OpenOptions::new().write(true).open("/dev/null");
    let taken = private_copy(io::stdout()).and_then(|output| {
        nix::unistd::dup2_stdout(null?)?;
        Ok(output)
    });
    taken.map_err(|e| Failure::os("moving the standard output", e))
}

fn private_copy(stream: impl AsFd) -> io::Result<File> {
    let copy = fcntl(stream.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(3))?;
    Ok(File::from(sys::adopt(copy)))
}

/// Starts a thread that reads `input` to its end, and returns the future of that end.
pub(super) fn watch_end(mut input: File) -> Result<oneshot::Receiver<()>, Failure> {
    let (ended, end) = oneshot::channel::<()>();
    // Otherwise the lock may be acquired before the thread has seen that there is no input.
    if is_readable(&input) && matches!(input.read(&mut [0]), Ok(0)) {
        return Ok(end);
    }
    start("a thread that reads the standard input", move || {
        let _ended = ended;
        let mut buffer = [0; 4096];
        loop {
            match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    })?;
    Ok(end)
}

/// Tells when the client has closed its end of the input, even if much of it was not read yet.
#[derive(Debug)]
pub(super) struct InputEnd(Option<AsyncFd<File>>);

impl InputEnd {
    /// Watches a copy of `input`. A file has no other end.
    pub(super) fn of(input: &File) -> Self {
        Self(private_copy(input).and_then(sys::watch_reads).ok())
    }

    /// Returns once the client has closed its end. Cancel safe.
    pub(super) async fn closed(&self) {
        let Some(input) = &self.0 else { return pending().await };
        // An error means that the runtime ends, and this future with it.
        while let Ok(mut ready) = input.readable().await {
            if ready.ready().is_read_closed() {
                return;
            }
            ready.clear_ready();
        }
    }
}

fn is_readable(input: &File) -> bool {
    let mut source = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    poll(&mut source, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Starts a thread, which ends with this process.
pub(super) fn start(what: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let started = thread::Builder::new().name("onelock-stream".into()).spawn(work);
    started.map(drop).map_err(|e| Failure::start(what, &e))
}
