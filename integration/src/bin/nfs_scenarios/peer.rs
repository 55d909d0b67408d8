//! The processes that take locks, and what they said.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

/// What a peer said; see `nfs_peer.rs`.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) what: String,
    pub(crate) name: String,
    pub(crate) words: Vec<String>,
    /// When, in nanoseconds of the clock that all processes of the guest share.
    pub(crate) at: i64,
}

impl Answer {
    fn parse(line: &str) -> Option<Self> {
        let mut words: Vec<String> = line.split_whitespace().map(Into::into).collect();
        let at = words.pop()?.parse().ok()?;
        let mut words = words.into_iter();
        Some(Self { what: words.next()?, name: words.next()?, words: words.collect(), at })
    }

    /// The fencing token of an acquisition.
    pub(crate) fn token(&self) -> u64 {
        self.words[0].parse().expect("an acquisition tells its token")
    }
}

/// An `nfs_peer` on one of the clients. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    label: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Said, and not asked for yet.
    early: Vec<Answer>,
}

/// How long anything may take that should come soon; the CPU may be emulated and loaded.
const SOON: Duration = Duration::from_secs(40);

impl Peer {
    /// Starts one on client `a` or `b`.
    pub(crate) fn start(client: &str, url: &str) -> Self {
        Self::start_as(client, &[], url)
    }

    /// As [`start`](Self::start), behind a command that runs it, such as `setpriv`.
    pub(crate) fn start_as(client: &str, runner: &[&str], url: &str) -> Self {
        let mut peer = Self::run(client, &[runner, &["nfs_peer", url]].concat());
        peer.expect("ready", "-");
        peer
    }

    /// Runs something else that speaks as an `nfs_peer` does.
    pub(crate) fn run(client: &str, words: &[&str]) -> Self {
        let mut child = Command::new(format!("on_{client}"))
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the rig's commands are on PATH");
        let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let (said, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = said.send(line);
            }
        });
        Self { label: client.into(), child, stdin: Some(stdin), lines, early: Vec::new() }
    }

    pub(crate) fn tell(&mut self, command: &str) {
        let stdin = self.stdin.as_mut().expect("not ended yet");
        writeln!(stdin, "{command}").unwrap_or_else(|e| panic!("{}: {command}: {e}", self.label));
    }

    /// Waits until it says `what` about `name`.
    pub(crate) fn expect(&mut self, what: &str, name: &str) -> Answer {
        self.within(what, name, SOON)
            .unwrap_or_else(|| panic!("{} did not say \"{what} {name}\", but {:?}", self.label, self.early))
    }

    /// As [`expect`](Self::expect), if it comes within `limit`.
    pub(crate) fn within(&mut self, what: &str, name: &str, limit: Duration) -> Option<Answer> {
        let end = Instant::now() + limit;
        loop {
            if let Some(i) = self.early.iter().position(|said| said.what == what && said.name == name) {
                return Some(self.early.remove(i));
            }
            let line = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())).ok()?;
            println!("{}: {line}", self.label);
            let said = Answer::parse(&line).unwrap_or_else(|| panic!("{} said {line:?}", self.label));
            self.early.push(said);
        }
    }

    /// Whether the lock is had now.
    pub(crate) fn tries(&mut self, name: &str) -> bool {
        self.tell(&format!("try {name}"));
        let answer = self.first_of(&["held", "acquired", "error"], name);
        assert_ne!(answer.what, "error", "{}: {answer:?}", self.label);
        answer.what == "acquired"
    }

    /// Waits until the store answers again, after the network was away.
    pub(crate) fn wait_until_up(&mut self) {
        let end = Instant::now() + SOON;
        let name = format!("up-{}", self.child.id());
        loop {
            self.tell(&format!("try {name}"));
            if self.first_of(&["acquired", "error"], &name).what == "acquired" {
                self.release(&name);
                return;
            }
            assert!(Instant::now() < end, "{} does not come back: {:?}", self.label, self.early);
        }
    }

    pub(crate) fn first_of(&mut self, whats: &[&str], name: &str) -> Answer {
        let end = Instant::now() + SOON;
        while Instant::now() < end {
            for what in whats {
                if let Some(answer) = self.within(what, name, Duration::from_millis(20)) {
                    return answer;
                }
            }
        }
        panic!("{} said none of {whats:?} about {name}, but {:?}", self.label, self.early);
    }

    pub(crate) fn acquire(&mut self, name: &str) -> Answer {
        self.tell(&format!("acquire {name}"));
        self.expect("acquired", name)
    }

    pub(crate) fn release(&mut self, name: &str) -> Answer {
        self.tell(&format!("release {name}"));
        self.expect("released", name)
    }

    /// All that it said until `end` and nobody asked for.
    pub(crate) fn all_until(&mut self, end: Instant) -> Vec<Answer> {
        while self.within("", "", end.saturating_duration_since(Instant::now())).is_some() {}
        std::mem::take(&mut self.early)
    }

    /// Lets it end by itself.
    pub(crate) fn end(&mut self) {
        self.stdin = None;
        self.child.wait().expect("it is our child");
    }

    /// SIGKILL, which the process on the client gets too; returns when that was.
    pub(crate) fn kill(&mut self) -> i64 {
        let at = test_support::monotonic_nanos();
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
        at
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
