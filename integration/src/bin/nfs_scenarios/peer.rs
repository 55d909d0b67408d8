//! The processes that acquire locks, and their answers.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use crate::rig;

/// An answer of a peer; see `nfs_peer/main.rs`.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) what: String,
    pub(crate) name: String,
    pub(crate) words: Vec<String>,
    /// The time, in nanoseconds of the clock that all processes of the guest share.
    pub(crate) at: i64,
}

impl Answer {
    fn parse(line: &str) -> Option<Self> {
        let mut words: Vec<String> = line.split_whitespace().map(Into::into).collect();
        let at = words.pop()?.parse().ok()?;
        let mut words = words.into_iter();
        Some(Self { what: words.next()?, name: words.next()?, words: words.collect(), at })
    }

    /// Returns the fencing token of an acquisition.
    pub(crate) fn token(&self) -> u64 {
        self.words[0].parse().expect("the answer to an acquisition contains its token")
    }
}

/// An `nfs_peer` on one of the clients, which is killed on drop.
#[derive(Debug)]
pub(crate) struct Peer {
    label: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Answers that were received before a scenario asked for them.
    early: Vec<Answer>,
}

/// The limit for answers that should arrive soon; the CPU may be emulated and loaded.
pub(crate) const SOON: Duration = Duration::from_secs(40);

impl Peer {
    /// Starts a peer on a client, such as `a`.
    pub(crate) fn start(client: &str, url: &str) -> Self {
        Self::start_as(client, &[], url)
    }

    /// Starts a peer by a command that runs it, such as `setpriv`.
    pub(crate) fn start_as(client: &str, runner: &[&str], url: &str) -> Self {
        let mut peer = Self::run(client, &[runner, &["nfs_peer", url]].concat());
        peer.expect("ready", "-");
        peer
    }

    /// Runs another program that answers like an `nfs_peer`.
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

    /// Waits for the answer `what` about `name`.
    pub(crate) fn expect(&mut self, what: &str, name: &str) -> Answer {
        self.within(what, name, SOON)
            .unwrap_or_else(|| panic!("{} did not say \"{what} {name}\", but {:?}", self.label, self.early))
    }

    /// Waits like [`expect`](Self::expect), and returns `None` after `limit`.
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

    /// Tries to acquire the lock, and returns whether that succeeded.
    pub(crate) fn tries(&mut self, name: &str) -> bool {
        self.tries_in("", name)
    }

    /// Like [`tries`](Self::tries), in a mode of `nfs_peer`.
    pub(crate) fn tries_in(&mut self, mode: &str, name: &str) -> bool {
        self.tell(format!("try {name} {mode}").trim_end());
        let answer = self.first_of(&["held", "acquired", "error"], name);
        assert_ne!(answer.what, "error", "{}: {answer:?}", self.label);
        answer.what == "acquired"
    }

    /// Waits until the store answers again after an outage of the network.
    pub(crate) fn wait_until_up(&mut self) {
        let end = Instant::now() + SOON;
        let name = format!("up-{}", self.child.id());
        loop {
            self.tell(&format!("try {name}"));
            if self.first_of(&["acquired", "error"], &name).what == "acquired" {
                self.release(&name);
                return;
            }
            assert!(Instant::now() < end, "{} does not reach its store again: {:?}", self.label, self.early);
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
        self.acquire_in("", name)
    }

    /// Like [`acquire`](Self::acquire), in a mode of `nfs_peer`.
    pub(crate) fn acquire_in(&mut self, mode: &str, name: &str) -> Answer {
        self.tell(format!("acquire {name} {mode}").trim_end());
        self.expect("acquired", name)
    }

    /// Begins to wait as a fair request, and returns when it has its place.
    pub(crate) fn queue(&mut self, name: &str) -> Answer {
        self.tell(&format!("acquire {name} fair"));
        self.expect("waits", name)
    }

    /// Waits until a fair request was refused by an attempt that began after this call.
    pub(crate) fn refused_anew(&mut self, name: &str) {
        let called = test_support::monotonic_nanos();
        // The attempt that is answered first may have begun before.
        while self.expect("waits", name).at < called {}
        self.expect("waits", name);
    }

    pub(crate) fn release(&mut self, name: &str) -> Answer {
        self.tell(&format!("release {name}"));
        self.expect("released", name)
    }

    /// Returns all answers until `end` that no scenario has taken.
    pub(crate) fn all_until(&mut self, end: Instant) -> Vec<Answer> {
        while self.within("", "", end.saturating_duration_since(Instant::now())).is_some() {}
        std::mem::take(&mut self.early)
    }

    /// Closes the input of the peer, and waits for its end.
    pub(crate) fn end(&mut self) {
        self.stdin = None;
        self.child.wait().expect("the peer is a child of this process");
    }

    /// Stops the process on the client, which keeps what it has, or lets it go on. It is the child
    /// of a command of the rig.
    pub(crate) fn signal(&self, signal: &str) {
        rig(&format!("pkill -{signal} -P {}", self.child.id()));
    }

    /// Kills the peer, and with it the process on the client. Returns the time.
    pub(crate) fn kill(&mut self) -> i64 {
        let at = test_support::monotonic_nanos();
        self.child.kill().expect("the peer is a child of this process");
        self.child.wait().expect("the peer is a child of this process");
        at
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
