//! The output of the command: results on standard output, messages on standard error.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    exit::Failure,
    log::{self, Level},
    one_line::{json_line, one_line},
    runtime::on_thread,
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
    let mut sink = [PollFd::new(output.as_fd(), PollFlags::empty())];
    let told = poll(&mut sink, PollTimeout::ZERO);
    !(told.is_ok_and(|ready| ready > 0) && sink[0].revents().is_some_and(|told| told.contains(PollFlags::POLLERR)))
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

/// How long a message may take while a lock is held. A full pipe or a stopped terminal takes none.
const BRIEFLY: Duration = Duration::from_secs(1);

/// Lets `say` write to standard error, and waits for it at most a second.
pub(crate) async fn say_briefly(say: impl FnOnce() + Send + 'static) {
    let _ = timeout(BRIEFLY, on_thread(say)).await;
}

/// Writes to standard error. A failure is ignored, because no caller depends on the message.
pub(crate) fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
