//! The two streams of the protocol: lines of requests, and lines of replies and events.
//!
//! A thread reads and a thread writes, so that a client that does not read stops neither renewals
//! nor signals. Both queues are bounded: requests are read only while the client reads the replies,
//! and the events that are only news are left out meanwhile.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
};

use serde_json::Value;
use tokio::sync::mpsc;

use crate::{exit::Failure, hold::descriptors, one_line::json_line, writer::Writer};

/// The longest line of a client.
pub(super) const LONGEST_LINE: usize = 1 << 20;
/// The number of lines that wait for the client to read them, before the client has to wait.
const MOST_QUEUED: usize = 1_024;
/// The number of requests that are read ahead.
const READ_AHEAD: usize = 16;

/// A line of the client, or the reason why it is none.
pub(super) type Line = Result<String, String>;

/// Starts to read lines; the channel ends with the input.
pub(super) fn read_lines(input: File) -> Result<mpsc::Receiver<Line>, Failure> {
    let (sender, lines) = mpsc::channel(READ_AHEAD);
    descriptors::start("a thread that reads the requests", move || {
        let mut input = BufReader::new(input);
        while let Ok(Some(line)) = next_line(&mut input) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    })?;
    Ok(lines)
}

/// Reads the next line; `None` at the end. A line that the client did not finish is no request.
fn next_line(input: &mut impl BufRead) -> io::Result<Option<Line>> {
    let mut line = Vec::new();
    let mut too_long = false;
    loop {
        let part = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            part => part?,
        };
        if part.is_empty() {
            return Ok(None);
        }
        let end = part.iter().position(|byte| *byte == b'\n');
        let taken = &part[..end.unwrap_or(part.len())];
        too_long |= line.len() + taken.len() > LONGEST_LINE;
        if !too_long {
            line.extend_from_slice(taken);
        }
        let used = taken.len() + usize::from(end.is_some());
        input.consume(used);
        if end.is_some() {
            break;
        }
    }
    if too_long {
        return Ok(Some(Err(format!("this line is longer than {LONGEST_LINE} bytes"))));
    }
    Ok(Some(String::from_utf8(line).map_err(|_| "this line is not UTF-8".into())))
}

/// Writes lines in the order in which they are given.
#[derive(Debug, Clone)]
pub(super) struct Output(Writer);

impl Output {
    /// Starts to write to `output`.
    pub(super) fn start(output: File) -> Result<Self, Failure> {
        let started = Writer::start(output);
        started.map(Self).map_err(|e| Failure::start("a thread that writes the replies", &e))
    }

    /// Queues a reply or an event. It fails once the client has closed its end, which `closed`
    /// reports.
    pub(super) fn send(&self, line: &Value) {
        self.0.send(json_line(line) + "\n");
    }

    /// Queues an event that a client can do without, unless too many lines wait already.
    pub(super) fn send_news(&self, line: &Value) {
        if self.has_room() {
            self.send(line);
        }
    }

    /// Whether the client reads fast enough to be sent more.
    pub(super) fn has_room(&self) -> bool {
        self.0.queued() < MOST_QUEUED
    }

    /// Returns once a line has been written since the last call.
    pub(super) async fn written(&self) {
        self.0.written().await;
    }

    /// Returns once the client has closed its end.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }

    /// Returns once every line has been written.
    pub(super) async fn flushed(&self) {
        self.0.flushed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<Line> {
        let mut input = BufReader::with_capacity(7, bytes);
        std::iter::from_fn(|| next_line(&mut input).unwrap()).collect()
    }

    #[test]
    fn lines_are_read_whole_and_an_unfinished_one_is_none() {
        assert_eq!(
            lines(b"{\"id\":1}\n\nlonger than the buffer\nno end"),
            [Ok("{\"id\":1}".into()), Ok(String::new()), Ok("longer than the buffer".into())]
        );
    }

    #[test]
    fn a_line_too_long_or_not_utf8_spoils_no_other() {
        let longest = "a".repeat(LONGEST_LINE);
        let read = lines(format!("{longest}\n{longest}b\nnext\n").as_bytes());
        assert_eq!(read[0].as_ref().map(String::len), Ok(LONGEST_LINE));
        assert!(read[1].as_ref().unwrap_err().contains("longer than"));
        assert_eq!(read[2], Ok("next".into()));
        let read = lines(b"\xff\xfe\nnext\n");
        assert_eq!(read, [Err("this line is not UTF-8".into()), Ok("next".into())]);
    }
}
