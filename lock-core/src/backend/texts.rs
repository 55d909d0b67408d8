//! Texts of servers and libraries, made short for errors.

use std::error::Error as StdError;

/// How much of a text an error repeats, in characters.
const LONGEST: usize = 300;

/// Shortens a text of a server to one line: control characters are escaped, and the end of a long
/// text is cut off.
///
/// ```
/// use lock_core::backend::one_line;
///
/// assert_eq!(one_line("no\nsuch table"), "no\\nsuch table");
/// assert_eq!(one_line(&"x".repeat(301)).chars().count(), 301, "the last one is an ellipsis");
/// ```
pub fn one_line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .take(LONGEST)
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.into() })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

/// Returns an error and its sources in one line, for [`Error::with_source`](crate::Error). Texts
/// that `said` or an earlier cause contains are left out, because libraries repeat their sources.
///
/// ```
/// use std::io::{Error, ErrorKind};
///
/// use lock_core::backend::causes;
///
/// let error = Error::new(ErrorKind::Other, Error::other("connection refused"));
/// assert_eq!(causes(&error, ""), "connection refused");
/// assert_eq!(causes(&error, "open: connection refused"), "");
/// ```
pub fn causes(error: &(dyn StdError + 'static), said: &str) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in std::iter::successors(Some(error), |&error| error.source()) {
        let text = one_line(&cause.to_string());
        if !said.contains(&text) && !causes.iter().any(|cause| cause.contains(&text)) {
            causes.push(text);
        }
    }
    one_line(&causes.join(": "))
}
