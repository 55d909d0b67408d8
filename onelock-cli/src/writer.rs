//! A thread that writes text in the order in which it is given, so that a reader that does not read
//! stops no other thread.

use std::{
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use tokio::sync::Notify;

/// The way to the thread, which ends with the last of its copies.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    texts: mpsc::Sender<String>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    queued: AtomicUsize,
    written: Notify,
    /// For threads without a runtime.
    emptied: (Mutex<()>, Condvar),
    closed: Notify,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system refuses it.
    pub(crate) fn start(mut output: impl Write + Send + 'static) -> io::Result<Self> {
        let (texts, queue) = mpsc::channel::<String>();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::Builder::new().name("onelock-write".into()).stack_size(64 * 1024).spawn(move || {
            for text in queue {
                if output.write_all(text.as_bytes()).is_err() {
                    shared.closed.notify_one();
                }
                shared.note_written();
            }
        })?;
        Ok(Self { texts, state })
    }

    /// Queues `text`. A failed write drops its text, and [`closed`](Self::closed) reports it.
    pub(crate) fn send(&self, text: String) {
        self.state.queued.fetch_add(1, Ordering::Relaxed);
        let _ = self.texts.send(text);
    }

    /// Returns how many texts wait.
    pub(crate) fn queued(&self) -> usize {
        self.state.queued.load(Ordering::Acquire)
    }

    /// Returns once a text has been written since the last call.
    pub(crate) async fn written(&self) {
        self.state.written.notified().await;
    }

    /// Returns once a write has failed.
    pub(crate) async fn closed(&self) {
        self.state.closed.notified().await;
    }

    /// Returns once every text has been written or dropped.
    pub(crate) async fn flushed(&self) {
        while self.queued() > 0 {
            self.written().await;
        }
    }

    /// Waits until every text has been written, at most for `limit`. Blocks the thread.
    pub(crate) fn flush_within(&self, limit: Duration) {
        let (lock, emptied) = &self.state.emptied;
        let guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = emptied.wait_timeout_while(guard, limit, |()| self.queued() > 0);
    }
}

impl State {
    fn note_written(&self) {
        if self.queued.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Under the lock, so that no waiter is between its look and its wait.
            let _waiting = self.emptied.0.lock().unwrap_or_else(PoisonError::into_inner);
            self.emptied.1.notify_all();
        }
        self.written.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// A text that no pipe takes before some of it is read.
    fn long() -> String {
        "x".repeat(1 << 20)
    }

    #[tokio::test]
    async fn texts_are_written_in_their_order_once_the_reader_reads() {
        let (mut reader, output) = io::pipe().unwrap();
        let writer = Writer::start(output).unwrap();
        writer.send(long());
        writer.send("end".into());
        writer.flush_within(Duration::ZERO);
        assert_eq!(writer.queued(), 2, "the reader has not read");
        let reader = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        writer.flushed().await;
        writer.flush_within(Duration::from_secs(3_600));
        drop(writer);
        assert_eq!(reader.join().unwrap().unwrap(), long() + "end");
    }

    #[test]
    fn a_blocking_flush_ends_when_the_text_is_written() {
        let (mut reader, output) = io::pipe().unwrap();
        let writer = Writer::start(output).unwrap();
        writer.send(long());
        let reading = thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
        writer.flush_within(Duration::from_secs(3_600));
        assert_eq!(writer.queued(), 0);
        drop(writer);
        assert_eq!(reading.join().unwrap().unwrap(), 1 << 20);
    }

    #[tokio::test]
    async fn an_output_without_a_reader_is_reported() {
        let (reader, output) = io::pipe().unwrap();
        let writer = Writer::start(output).unwrap();
        drop(reader);
        writer.send("lost".into());
        writer.closed().await;
        writer.send("lost too".into());
        writer.flushed().await;
    }
}
