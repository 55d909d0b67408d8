//! Starts processes, reads their output, and freezes and kills them.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::wait_for;

/// A running process, killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// The lines printed so far, on both streams.
    lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts the process without an input.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        Self::start_from(command.stdin(Stdio::null()))
    }

    /// Starts the process with an input that stays open until [`close_input`](Self::close_input).
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_with_input(command: &mut Command) -> Self {
        Self::start_from(command.stdin(Stdio::piped()))
    }

    /// Ends the input of the process.
    pub fn close_input(&mut self) {
        self.child.stdin = None;
    }

    fn start_from(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("cargo built it");
        let lines = Arc::default();
        collect(child.stdout.take().expect("piped"), Arc::clone(&lines));
        collect(child.stderr.take().expect("piped"), Arc::clone(&lines));
        Self { child, lines }
    }

    /// Returns the lines printed so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns whether a line contains `words`.
    pub fn says(&self, words: &str) -> bool {
        self.lines().iter().any(|line| line.contains(words))
    }

    /// Waits for a line that contains `words`.
    ///
    /// # Panics
    /// If none comes.
    pub fn wait_for(&self, words: &str) {
        assert!(wait_for(words, || self.says(words)), "the process did not print {words:?}, but: {:#?}", self.lines());
    }

    /// Stops the process by SIGSTOP.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Continues the process.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Returns the process id.
    ///
    /// # Panics
    /// Never: process ids are positive.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("pids are positive"))
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the process is not reaped yet");
    }

    /// Kills the process with SIGKILL, and reaps it.
    ///
    /// # Panics
    /// If it was reaped before.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process is not reaped yet");
        self.child.wait().expect("it is a child");
    }

    /// Waits for the end of the process, as long as it continues to print.
    ///
    /// # Panics
    /// If it neither ends nor prints.
    pub fn ends(&mut self) -> ExitStatus {
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
