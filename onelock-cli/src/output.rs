//! The output of the command: results on standard output, messages on standard error.

use std::io::{self, Write};

use serde_json::Value;

use crate::exit::Failure;

/// Prints a line of the result, with its control characters escaped.
pub(crate) fn print(line: &str) -> Result<(), Failure> {
    print_as_is(&one_line(line))
}

/// Prints an object, for programs.
pub(crate) fn print_json(value: &Value) -> Result<(), Failure> {
    // JSON allows DEL and the C1 control characters in strings, and a terminal obeys them.
    let escape = |c: char| if needs_escape(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    print_as_is(&value.to_string().chars().map(escape).collect::<String>())
}

/// Prints text whose lines were made by [`one_line`]. A reader that closes the pipe early, such as
/// `head`, is no failure.
pub(crate) fn print_as_is(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::os("writing the output", error)),
        _ => Ok(()),
    }
}

/// Escapes control characters: what a store, a server or another host said stays in its line, and
/// cannot control the terminal.
pub(crate) fn one_line(text: &str) -> String {
    let escape = |c: char| if needs_escape(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// Also for line separators, and for characters that change the direction of the text.
fn needs_escape(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Writes a message of one line to standard error.
pub(crate) fn report(message: &str) {
    say(&format!("onelock: {}\n", one_line(message)));
}

/// Writes to standard error. A failure is ignored, because no caller depends on the message.
pub(crate) fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_in_one_harmless_line() {
        let hostile = "a\u{1b}[2J\r\nb\t\u{9b}2J\u{7f}\u{202e}\u{2028}\u{0}";
        let line = one_line(hostile);
        assert_eq!(line, r"a\u{1b}[2J\r\nb\t\u{9b}2J\u{7f}\u{202e}\u{2028}\u{0}");
        assert_eq!(one_line(&line), line, "escaped once");
        assert_eq!(one_line("jörg \"x\" \\ 日本"), "jörg \"x\" \\ 日本");
    }
}
