//! The output of the command: results on standard output, messages on standard error.

use std::io::{self, Write};

use crate::exit::Failure;

/// Prints a line of the result. A reader that closes the pipe early, such as `head`, is no failure.
pub(crate) fn print(line: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::os("writing the output", error)),
        _ => Ok(()),
    }
}

/// Writes to standard error. A failure is ignored, because no caller depends on the message.
pub(crate) fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
