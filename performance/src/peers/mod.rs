//! Lock libraries of other languages and other builds, in processes of their own.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use test_support::{python::python, target_directory};

use crate::flavor::Flavor;

/// A process that answers each line with one line.
pub(crate) struct Process {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Process {
    /// Starts this program as a child: its role, the store, how it locks, where, and the runtime.
    pub(crate) fn own(arguments: [&str; 5]) -> Self {
        let this = std::env::current_exe().expect("this program has a path");
        Self::start(Command::new(this).arg("child").args(arguments))
    }

    /// Starts a Python library, which locks on a port of Redis or on a path.
    pub(crate) fn python(library: &str, place: &str) -> Self {
        Self::start(Command::new(python()).arg(source("peer.py")).args([library, place]))
    }

    /// Starts redlock of Node.
    pub(crate) fn redlock(port: u16) -> Self {
        let modules = node_modules();
        Self::start(Command::new("node").arg(source("redlock.js")).arg(port.to_string()).env("NODE_PATH", modules))
    }

    /// Starts the benchmark of lock-dynamo, which has contestants of its own.
    pub(crate) fn dynamodb(flavor: Flavor) -> Self {
        let workers = if flavor == Flavor::TwoWorkers { "2" } else { "1" };
        Self::start(dynamodb_benchmark().args(["--", "contestants", workers]))
    }

    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let commands = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, commands, answers }
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.commands, "{line}").expect("it lives");
    }

    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it lives");
        assert!(line.ends_with('\n'), "the process ended");
        line.trim_end().to_owned()
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.answer()
    }

    /// Reads an answer of numbers.
    pub(crate) fn numbers(&mut self) -> Vec<f64> {
        let answer = self.answer();
        answer.split(' ').filter(|part| !part.is_empty()).map(|part| part.parse().expect("a number")).collect()
    }

    /// Reads a time of `CLOCK_MONOTONIC`.
    pub(crate) fn nanos(&mut self) -> i64 {
        self.answer().parse().expect("nanoseconds")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds the benchmark of lock-dynamo, with the AWS crates.
pub(crate) fn build() {
    let built = dynamodb_benchmark().arg("--no-run").status();
    assert!(built.is_ok_and(|status| status.success()), "cargo bench -p lock-dynamo --no-run failed");
}

fn dynamodb_benchmark() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    let profile = if cfg!(debug_assertions) { "dev" } else { "bench" };
    command.args(["bench", "--quiet", "--profile", profile, "-p", "lock-dynamo", "--bench", "dynamodb"]);
    command
}

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/peers").join(file)
}

/// Installs the packages of Node below the target directory, once.
fn node_modules() -> PathBuf {
    let directory = target_directory().join("performance-node");
    let (wanted, installed) = (source("package.json"), directory.join("node_modules/redlock"));
    let text = fs::read(&wanted).expect("it is part of the crate");
    if !installed.exists() || fs::read(directory.join("package.json")).ok().as_ref() != Some(&text) {
        fs::create_dir_all(&directory).expect("the target directory is ours");
        fs::write(directory.join("package.json"), text).expect("the target directory is ours");
        let npm = Command::new("npm")
            .args(["install", "--silent", "--no-audit", "--no-fund"])
            .current_dir(&directory)
            .stdout(Stdio::null())
            .status();
        assert!(npm.is_ok_and(|status| status.success()), "npm install failed; on Debian: apt-get install npm");
    }
    directory.join("node_modules")
}
