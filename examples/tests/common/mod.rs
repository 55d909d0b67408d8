//! Processes of the examples: started, read, frozen, killed.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use integration::redis::wait_for;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A running example, killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    /// What it has printed so far, on both streams.
    lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::start_from(command.stdin(Stdio::null()))
    }

    /// With an input that is open until [`close_input`](Self::close_input).
    pub(crate) fn start_with_input(command: &mut Command) -> Self {
        Self::start_from(command.stdin(Stdio::piped()))
    }

    pub(crate) fn close_input(&mut self) {
        self.child.stdin = None;
    }

    fn start_from(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("cargo built it");
        let lines = Arc::default();
        collect(child.stdout.take().expect("piped"), Arc::clone(&lines));
        collect(child.stderr.take().expect("piped"), Arc::clone(&lines));
        Self { child, lines }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn says(&self, words: &str) -> bool {
        self.lines().iter().any(|line| line.contains(words))
    }

    /// Waits for a line that has `words` in it.
    pub(crate) fn wait_for(&self, words: &str) {
        assert!(wait_for(words, || self.says(words)), "it never said {words:?}, but: {:#?}", self.lines());
    }

    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    pub(crate) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("pids are positive"))
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("nobody has waited for it yet");
    }

    /// Kills it with SIGKILL, and waits for it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("nobody has waited for it yet");
        self.child.wait().expect("it is a child");
    }

    /// Waits for its own end, for as long as it goes on printing.
    pub(crate) fn ends(&mut self) -> ExitStatus {
        loop {
            let printed = self.lines().len();
            let mut status = None;
            let going_on = wait_for("the end of the process", || {
                status = self.child.try_wait().expect("it is a child");
                status.is_some() || self.lines().len() > printed
            });
            assert!(going_on, "{:#?}", self.lines());
            if let Some(status) = status {
                return status;
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(stream: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
}
