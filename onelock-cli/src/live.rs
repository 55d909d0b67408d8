//! A line on the terminal of standard error that is updated in place, for commands that take long.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{
    one_line::one_line,
    output::{say, say_if_read},
    terminal::{can_update_in_place, cut, error_width, is_in_background},
};

/// The line. It is erased when this is dropped. In a log there is none.
#[derive(Debug)]
pub(crate) struct LiveLine {
    is_shown: bool,
    is_drawn: AtomicBool,
}

impl LiveLine {
    pub(crate) fn new() -> Self {
        Self { is_shown: can_update_in_place(), is_drawn: AtomicBool::new(false) }
    }

    /// Shows `text` in place of what was shown before.
    pub(crate) fn set(&self, text: &str) {
        if self.is_shown && !is_in_background() {
            self.is_drawn.store(true, Ordering::Relaxed);
            say_if_read(&format!("\r\x1b[K{}", cut(&one_line(text), error_width().saturating_sub(1))));
        }
    }

    /// Erases the line.
    pub(crate) fn clear(&self) {
        if self.is_drawn.swap(false, Ordering::Relaxed) && !is_in_background() {
            say("\r\x1b[K");
        }
    }
}

impl Drop for LiveLine {
    fn drop(&mut self) {
        self.clear();
    }
}
