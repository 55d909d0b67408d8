//! The terminal that standard output or standard error may be.

use std::{
    env,
    fmt::Write as _,
    io::{IsTerminal, stderr, stdout},
    os::fd::AsFd,
    time::{Duration, SystemTime},
};

use nix::unistd::{getpgrp, tcgetpgrp};
use terminal_size::{Height, Width, terminal_size_of};
use unicode_width::UnicodeWidthStr;

/// The width of a terminal that does not tell it.
const USUAL_WIDTH: usize = 80;
/// The rows of a terminal that does not tell them.
const USUAL_HEIGHT: usize = 24;

/// Returns the width of standard output, if that is a terminal.
pub(crate) fn output_width() -> Option<usize> {
    stdout().is_terminal().then(|| width_of(stdout()))
}

/// Returns the rows of standard output, if that is a terminal.
pub(crate) fn output_height() -> Option<usize> {
    let told = || terminal_size_of(stdout()).map(|(_, Height(rows))| usize::from(rows));
    stdout().is_terminal().then(|| told().filter(|&rows| rows > 1).unwrap_or(USUAL_HEIGHT))
}

/// Returns the width of standard error.
pub(crate) fn error_width() -> usize {
    width_of(stderr())
}

fn width_of(terminal: impl AsFd) -> usize {
    let told = terminal_size_of(terminal).map(|(Width(columns), _)| usize::from(columns));
    told.filter(|&columns| columns > 0).unwrap_or(USUAL_WIDTH)
}

/// Returns whether a line on standard error can be updated in place.
pub(crate) fn can_update_in_place() -> bool {
    stderr().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Returns whether another job has the terminal of standard error, whose lines this process must
/// not overwrite.
pub(crate) fn is_in_background() -> bool {
    tcgetpgrp(stderr()).is_ok_and(|foreground| foreground != getpgrp())
}

/// Returns how many columns `text` takes.
pub(crate) fn columns(text: &str) -> usize {
    text.width()
}

/// Returns the beginning of `text` that fits into `columns`, with `…` at the end if it was cut.
pub(crate) fn cut(text: &str, limit: usize) -> String {
    if columns(text) <= limit {
        return text.to_owned();
    }
    // A sequence of characters may take another width than the sum of its parts.
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    let fits = ends.take_while(|&end| columns(&text[..end]) < limit).last().unwrap_or(0);
    if limit == 0 { String::new() } else { text[..fits].to_owned() + "…" }
}

/// Returns a time in UTC. `None` if it is too far off to be one that a program has recorded.
pub(crate) fn utc(at: SystemTime) -> Option<String> {
    let mut text = String::new();
    let shown = at >= SystemTime::UNIX_EPOCH && write!(text, "{}", humantime::format_rfc3339_seconds(at)).is_ok();
    shown.then_some(text)
}

/// Returns a duration for people: `42s`, `3m 20s`, `5h 12m`, `2d 4h`.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match () {
        () if seconds < 60 => format!("{seconds}s"),
        () if seconds < 3_600 => format!("{minutes}m {}s", seconds % 60),
        () if days == 0 => format!("{hours}h {minutes}m"),
        () => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_to_its_columns() {
        for (text, limit, expected) in [
            ("short", 5, "short"),
            ("longer", 5, "long…"),
            ("日本語", 6, "日本語"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            // Together they take two columns, and alone one and none.
            ("❤\u{fe0f}❤\u{fe0f}❤\u{fe0f}", 4, "❤\u{fe0f}❤…"),
            ("x", 0, ""),
            ("xy", 1, "…"),
        ] {
            assert_eq!(cut(text, limit), expected, "{text} {limit}");
            assert!(columns(&cut(text, limit)) <= limit);
        }
    }

    #[test]
    fn impossible_times_are_not_shown() {
        for (seconds, shown) in [(0, true), (1_790_000_000, true), (1_790_000_000_000, false)] {
            assert_eq!(utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).is_some(), shown, "{seconds}");
        }
        assert_eq!(utc(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), None);
    }

    #[test]
    fn durations_have_two_units_at_most() {
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (60, "1m 0s"), (200, "3m 20s"), (3_600, "1h 0m"), (90_061, "1d 1h")]
        {
            assert_eq!(short(Duration::from_secs(seconds)), expected);
        }
    }
}
