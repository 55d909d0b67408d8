//! Everything that the command prints: results on standard output, messages on standard error.

use std::io::{self, Write};

use crate::exit::Failure;

/// Prints a line of the result. A reader that has had enough, such as `head`, is no failure.
pub(crate) fn print(line: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::os("writing the output", error)),
        _ => Ok(()),
    }
}

/// Writes to standard error. Nothing can be done when that fails, and nothing depends on it.
pub(crate) fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
