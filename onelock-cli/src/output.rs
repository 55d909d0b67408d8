//! The output of the command: results on standard output, messages on standard error.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    exit::Failure,
    log::{self, Level},
    messages::Messages,
    one_line::{json_line, one_line},
};

/// Prints a line of the result, with its control characters escaped.
pub(crate) fn print(line: &str) -> Result<(), Failure> {
    print_as_is(&one_line(line))
}

/// Prints an object, for programs.
pub(crate) fn print_json(value: &Value) -> Result<(), Failure> {
    print_as_is(&json_line(value))
}

/// Prints text whose lines were made by [`one_line`]. A reader that closes the pipe early, such as
/// `head`, is no failure.
pub(crate) fn print_as_is(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::os("writing the output", error)),
        _ => Ok(()),
    }
}

/// Returns whether what is written to `output` may still be read. A pipe without a reader tells,
/// also where SIGPIPE is ignored.
pub(crate) fn has_reader(output: impl AsFd) -> bool {
    !events_of(output, PollFlags::empty()).contains(PollFlags::POLLERR)
}

/// Returns whether a line can be written to `output` without a wait.
pub(crate) fn takes_text(output: impl AsFd) -> bool {
    events_of(output, PollFlags::POLLOUT).contains(PollFlags::POLLOUT)
}

fn events_of(output: impl AsFd, wanted: PollFlags) -> PollFlags {
    let mut sink = [PollFd::new(output.as_fd(), wanted)];
    let told = poll(&mut sink, PollTimeout::ZERO);
    sink[0].revents().filter(|_| told.is_ok_and(|ready| ready > 0)).unwrap_or(PollFlags::empty())
}

/// Writes a message of one line to standard error.
pub(crate) fn report(message: &str) {
    say(&log::line(Level::Info, message, None));
}

/// Writes a warning of one line to standard error.
pub(crate) fn warn(message: &str) {
    say(&log::line(Level::Warning, message, None));
}

/// Writes what failed to standard error, as one line, with the exit code if it ends this process.
pub(crate) fn fail(message: &str, code: Option<u8>) {
    say(&log::line(Level::Error, message, code));
}

/// How long a command waits for its messages: before it goes on with its work, and before it ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether messages are written by a thread.
static ON_THREAD: AtomicBool = AtomicBool::new(false);
/// The messages of the thread, from the first one on.
static MESSAGES: OnceLock<Messages> = OnceLock::new();

/// Lets a thread write all further messages.
///
/// A full pipe, a stopped terminal and a log file on a file system that hangs take no text. Without
/// the thread such a message would stop the renewals of the locks. Must be called after the last
/// fork, and with signals blocked.
pub(crate) fn write_on_thread() {
    ON_THREAD.store(true, Ordering::Relaxed);
}

/// Writes to standard error. A failure is ignored, because no caller depends on the message.
pub(crate) fn say(text: &str) {
    if ON_THREAD.load(Ordering::Relaxed) {
        MESSAGES.get_or_init(Messages::start).say(text);
    } else {
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// Writes to standard error, unless earlier messages still wait for their reader.
pub(crate) fn say_if_read(text: &str) {
    if MESSAGES.get().is_none_or(Messages::are_written) {
        say(text);
    }
}

/// Waits for the messages so far, at most for a second.
pub(crate) async fn flush_briefly() {
    if let Some(messages) = MESSAGES.get() {
        let _ = timeout(FLUSH_TIMEOUT, messages.flushed()).await;
    }
}

/// Waits for the last messages, at most for a second: no signal ends this process meanwhile, and
/// its caller waits for the exit code. Blocks the thread.
pub(crate) fn flush_at_end() {
    if let Some(messages) = MESSAGES.get() {
        messages.flush_within(FLUSH_TIMEOUT);
    }
}
