//! Starts clients of `onelock hold`, and `onelock hold --json` itself.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead, BufReader, Read, Seek, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
};

use nix::{
    sys::signal::{SIGKILL, Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::run::fixture::{Locks, children, eventually, is_alive, onelock, read, without_preferences};

/// Returns a command that finds this `onelock`, without a terminal.
pub(super) fn client(program: &str, args: &[&str]) -> Command {
    let onelock = Path::new(env!("CARGO_BIN_EXE_onelock")).parent().unwrap().display();
    let mut command = Command::new("setsid");
    command.arg(program).args(args).env("PATH", format!("{onelock}:{}", std::env::var("PATH").unwrap()));
    without_preferences(&mut command);
    command
}

/// Runs a client of `onelock hold` with this library. The client must get no lock and live on.
/// Returns the messages.
#[track_caller]
pub(super) fn refuses_its_client(locks: &Locks, url: &str, library: &Path) -> String {
    let script = r#"
coproc LOCK { exec env LD_PRELOAD="$1" onelock hold x; }
read -r -u "${LOCK[0]}" held || echo refused
"#;
    let script = locks.script("bash", script);
    let mut script = Process::start(client(&script, &[library.to_str().unwrap()]).env("ONELOCK_URL", url));
    script.expect("refused");
    script.ends_with(0)
}

/// A process with open standard streams; killed when dropped.
pub(super) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    out: BufReader<ChildStdout>,
    /// Standard error is a file, because a stopped `onelock hold` keeps a pipe open.
    messages: File,
    /// The `onelock hold` that it started, once that was looked up.
    hold: Option<Pid>,
}

impl Process {
    pub(super) fn start(command: &mut Command) -> Self {
        let messages = tempfile::tempfile().unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(messages.try_clone().unwrap());
        let mut child = command.spawn().unwrap();
        let (input, out) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, out, messages, hold: None }
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub(super) fn write(&mut self, line: &str) {
        // The reader may have ended.
        let _ = self.input.as_mut().unwrap().write_all(format!("{line}\n").as_bytes());
    }

    pub(super) fn close_input(&mut self) {
        self.input = None;
    }

    /// Reads the next line; empty at the end.
    pub(super) fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    #[track_caller]
    pub(super) fn expect(&mut self, start: &str) -> String {
        let line = self.line();
        assert!(line.starts_with(start), "{line:?} instead of {start:?}; {:?}", self.child.try_wait());
        line
    }

    /// Returns the `onelock hold` that this process started.
    pub(super) fn hold(&mut self) -> Pid {
        let is_onelock = |pid: &Pid| read(format!("/proc/{pid}/comm")).trim_end() == "onelock";
        let mut found = None;
        eventually("the client has started onelock", || {
            found = children(self.pid()).into_iter().find(is_onelock);
            found.is_some()
        });
        self.hold = found;
        found.unwrap()
    }

    /// Waits for the end, and returns the exit code and standard error.
    pub(super) fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        let mut message = String::new();
        self.messages.rewind().unwrap();
        self.messages.read_to_string(&mut message).unwrap();
        (status, message)
    }

    #[track_caller]
    pub(super) fn ends_with(self, code: i32) -> String {
        let (status, message) = self.end();
        assert_eq!(status.code(), Some(code), "{message}");
        message
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // It ends with its client, unless a test has stopped it.
        if let Some(hold) = self.hold.filter(|pid| is_alive(*pid)) {
            let _ = kill(hold, SIGKILL);
        }
    }
}

/// An `onelock hold --json` whose client is this test.
pub(super) struct Hold {
    pub(super) process: Process,
    pub(super) hello: Value,
    last: u64,
    /// The events that came before a reply.
    events: VecDeque<Value>,
    /// The replies that came before an event.
    replies: Vec<Value>,
}

impl Hold {
    pub(super) fn start(url: &str, options: &[&str]) -> Self {
        Self::serve(onelock(["hold", "--json", "--url", url]).args(options))
    }

    pub(super) fn serve(command: &mut Command) -> Self {
        let mut process = Process::start(command);
        let hello = serde_json::from_str(&process.line()).expect("the first line is the hello");
        Self { process, hello, last: 0, events: VecDeque::new(), replies: Vec::new() }
    }

    /// Sends a request, and returns its id.
    pub(super) fn send(&mut self, mut request: Value) -> u64 {
        self.last += 1;
        request["id"] = json!(self.last);
        self.process.write(&request.to_string());
        self.last
    }

    fn next(&mut self) -> Value {
        let line = self.process.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Returns the reply to the request `id`.
    pub(super) fn reply(&mut self, id: u64) -> Value {
        if let Some(at) = self.replies.iter().position(|reply| reply["id"] == id) {
            return self.replies.remove(at);
        }
        loop {
            let line = self.next();
            if line["id"] == id {
                return line;
            }
            if line.get("event").is_some() { self.events.push_back(line) } else { self.replies.push(line) }
        }
    }

    /// Returns the reply to a line whose id could not be read.
    pub(super) fn reply_without_id(&mut self) -> Value {
        loop {
            let line = self.next();
            if line.get("event").is_none() && line["id"].is_null() {
                return line;
            }
        }
    }

    /// Sends a request, and returns its successful answer.
    #[track_caller]
    pub(super) fn ask(&mut self, request: Value) -> Value {
        let id = self.send(request);
        let reply = self.reply(id);
        assert!(reply.get("ok").is_some(), "{reply}");
        reply["ok"].clone()
    }

    /// Sends a request, and returns its error.
    #[track_caller]
    pub(super) fn refused(&mut self, request: Value) -> Value {
        let id = self.send(request);
        let reply = self.reply(id);
        assert!(reply.get("error").is_some(), "{reply}");
        reply["error"].clone()
    }

    /// Acquires the lock `x`, and returns the answer.
    pub(super) fn acquire(&mut self, options: Value) -> Value {
        let mut request = json!({ "op": "acquire", "name": "x" });
        request.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        let answer = self.ask(request);
        assert_eq!(answer["held"], json!(true), "{answer}");
        answer
    }

    /// Returns the next event of this kind; others are left out.
    pub(super) fn event(&mut self, kind: &str) -> Value {
        loop {
            let line = match self.events.pop_front() {
                Some(event) => event,
                None => self.next(),
            };
            if line["event"] == kind {
                return line;
            }
            if line.get("event").is_none() {
                self.replies.push(line);
            }
        }
    }
}
