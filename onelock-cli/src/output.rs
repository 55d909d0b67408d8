//! The output of the command: results on standard output, messages on standard error.

use std::io::{self, Write};

use serde_json::Value;

use crate::{
    exit::Failure,
    one_line::{needs_escape, one_line},
};

/// Prints a line of the result, with its control characters escaped.
pub(crate) fn print(line: &str) -> Result<(), Failure> {
    print_as_is(&one_line(line))
}

/// Prints an object, for programs.
pub(crate) fn print_json(value: &Value) -> Result<(), Failure> {
    print_as_is(&json_line(value))
}

/// Returns an object as one line.
pub(crate) fn json_line(value: &Value) -> String {
    // JSON allows DEL and the C1 control characters in strings, and a terminal obeys them.
    let escape = |c: char| if needs_escape(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    value.to_string().chars().map(escape).collect()
}

/// Prints text whose lines were made by [`one_line`]. A reader that closes the pipe early, such as
/// `head`, is no failure.
pub(crate) fn print_as_is(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::os("writing the output", error)),
        _ => Ok(()),
    }
}

/// Writes a message of one line to standard error.
pub(crate) fn report(message: &str) {
    say(&format!("onelock: {}\n", one_line(message)));
}

/// Writes to standard error. A failure is ignored, because no caller depends on the message.
pub(crate) fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
