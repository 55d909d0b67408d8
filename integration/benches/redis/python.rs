//! redis-py's `Lock`, in a separate process.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

const SCRIPT: &str = r#"
import sys, time, redis
lock = redis.Redis(port=int(sys.argv[1])).lock("redis-py", timeout=30)
for line in sys.stdin:
    if line.startswith("wait"):
        lock.acquire()
        print(time.monotonic_ns(), flush=True)
        lock.release()
    else:
        start = time.perf_counter_ns()
        for _ in range(int(line)):
            lock.acquire()
            lock.release()
        print(time.perf_counter_ns() - start, flush=True)
"#;

/// A process that answers each line with one line.
pub(crate) struct Process {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn redis_py(port: u16) -> Self {
        Self::start(Command::new(test_support::python::python()).args(["-c", SCRIPT, &port.to_string()]))
    }

    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let commands = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, commands, answers }
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.commands, "{line}").expect("it lives");
    }

    pub(crate) fn answer(&mut self) -> i64 {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it lives");
        line.trim().parse().expect("nanoseconds")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
