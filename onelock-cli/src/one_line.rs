//! Keeps text from stores, servers and other hosts in one harmless line.

use serde_json::Value;

/// Escapes control characters: what a store, a server or another host said stays in its line, and
/// cannot control the terminal.
pub(crate) fn one_line(text: &str) -> String {
    let escape = |c: char| if needs_escape(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// Whether a character is escaped. Also true for line separators, and for characters that change
/// the direction of the text.
pub(crate) fn needs_escape(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns an object as one line.
pub(crate) fn json_line(value: &Value) -> String {
    // JSON allows DEL and the C1 control characters in strings, and a terminal obeys them.
    let escape = |c: char| if needs_escape(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    value.to_string().chars().map(escape).collect()
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
