//! The messages of a process that holds locks: a thread writes them, or they are left out.

use std::{
    io::{self, Write as _},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crate::{
    log::{self, Level},
    output::takes_text,
    writer::Writer,
};

/// The number of messages that wait for their reader, before further ones are left out.
const MOST_QUEUED: usize = 1_024;

/// The messages on the way to standard error.
#[derive(Debug)]
pub(crate) struct Messages {
    /// `None` if the system refused the thread: then only that is written which takes no time.
    writer: Option<Writer>,
    /// How many messages were left out since the last one.
    left_out: AtomicUsize,
}

impl Messages {
    /// Starts the thread.
    pub(crate) fn start() -> Self {
        Self::of(Writer::start(io::stderr()).ok())
    }

    fn of(writer: Option<Writer>) -> Self {
        Self { writer, left_out: AtomicUsize::new(0) }
    }

    /// Writes `text`, or leaves it out. Does not wait.
    pub(crate) fn say(&self, text: &str) {
        match &self.writer {
            Some(writer) if writer.queued() < MOST_QUEUED => {
                match self.left_out.swap(0, Ordering::Relaxed) {
                    0 => {}
                    count => writer.send(log::line(Level::Warning, &format!("{count} messages were left out"), None)),
                }
                writer.send(text.to_owned());
            }
            None if takes_text(io::stderr()) => {
                let _ = io::stderr().write_all(text.as_bytes());
            }
            _ => {
                self.left_out.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Whether no message waits for its reader.
    pub(crate) fn are_written(&self) -> bool {
        self.writer.as_ref().is_none_or(|writer| writer.queued() == 0)
    }

    /// Returns once every message has been written.
    pub(crate) async fn flushed(&self) {
        if let Some(writer) = &self.writer {
            writer.flushed().await;
        }
    }

    /// Waits for every message, at most for `limit`. Blocks the thread.
    pub(crate) fn flush_within(&self, limit: Duration) {
        if let Some(writer) = &self.writer {
            writer.flush_within(limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, thread};

    use super::*;

    #[tokio::test]
    async fn messages_that_are_not_read_are_counted() {
        let (mut reader, output) = io::pipe().unwrap();
        let messages = Messages::of(Some(Writer::start(output).unwrap()));
        // No pipe takes it before some of it is read.
        messages.say(&"x".repeat(1 << 20));
        for number in 1..MOST_QUEUED + 7 {
            messages.say(&format!("{number}\n"));
        }
        assert!(!messages.are_written());
        let reader = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        messages.flushed().await;
        messages.say("again\n");
        drop(messages);
        let text = reader.join().unwrap().unwrap();
        let expected = format!("\n{}\nonelock: warning: 7 messages were left out\nagain\n", MOST_QUEUED - 1);
        assert!(text.ends_with(&expected), "{}", &text[1 << 20..]);
    }
}
