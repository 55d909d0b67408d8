//! The colours of results: on a terminal only, and not with `NO_COLOR`. Help and errors of the
//! command line follow the same rules.

use std::io::stdout;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

const GOOD: Style = AnsiColor::Green.on_default();
const NOTABLE: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const HEADER: Style = Style::new().bold();

/// Adds colours to text without control characters, or leaves it as it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Colours {
    are_shown: bool,
}

impl Colours {
    /// Returns the colours for standard output.
    pub(crate) fn of_output() -> Self {
        Self { are_shown: AutoStream::choice(&stdout()) != ColorChoice::Never }
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.paint(GOOD, text)
    }

    pub(crate) fn notable(self, text: &str) -> String {
        self.paint(NOTABLE, text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.paint(BAD, text)
    }

    pub(crate) fn header(self, text: &str) -> String {
        self.paint(HEADER, text)
    }

    fn paint(self, style: Style, text: &str) -> String {
        if self.are_shown { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}
