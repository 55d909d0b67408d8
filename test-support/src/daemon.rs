//! Server processes that never outlive the test.

use std::{
    io::{self, BufRead, BufReader},
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

/// A running server. It is killed when this is dropped, and also when the test itself is killed.
#[derive(Debug)]
pub struct Daemon {
    shell: Child,
    /// The shell waits for the end of this pipe. The kernel closes the pipe when this process ends,
    /// however it ends.
    lifeline: Option<ChildStdin>,
    pid: Pid,
}

/// Starts its arguments as a command, except the first, which is a signal. Prints the pid, and
/// sends the signal to the command when its input ends.
const KEEPER: &str = r#"signal=$1; shift
"$@" </dev/null >&2 & echo $!; read -r _; kill -"$signal" $! 2>/dev/null; wait"#;

impl Daemon {
    /// Starts `program` with `args`; `package` is the Debian package that contains it.
    ///
    /// # Panics
    /// If the program is not installed or cannot be started.
    pub fn start(program: &str, package: &str, args: &[String]) -> Self {
        Self::start_with("KILL", program, package, args)
    }

    /// Starts a program that is ended by `signal`, because it has to clean up.
    ///
    /// # Panics
    /// If the program is not installed or cannot be started.
    pub(crate) fn start_with(signal: &str, program: &str, package: &str, args: &[String]) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let installed = program.contains('/') || std::env::split_paths(&path).any(|dir| dir.join(program).exists());
        assert!(
            installed && (!program.contains('/') || Path::new(program).exists()),
            "{program} is not installed; this test needs it: apt-get install {package}"
        );
        let mut shell = Command::new("sh")
            .args(["-c", KEEPER, "keeper", signal, program])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh starts");
        let mut line = String::new();
        let stdout = shell.stdout.take().expect("it was piped");
        BufReader::new(stdout).read_line(&mut line).expect("the shell says the pid");
        let pid = Pid::from_raw(line.trim().parse().expect("a pid"));
        Self { lifeline: shell.stdin.take(), shell, pid }
    }

    /// Returns whether the process runs.
    pub fn runs(&self) -> bool {
        // A process that has ended stays a zombie until the shell waits for it.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
    }

    /// Returns the processor time that the process has used.
    ///
    /// # Panics
    /// If the process is gone.
    pub fn processor_time(&self) -> Duration {
        let clock = clock_getcpuclockid(self.pid).expect("the server runs");
        clock_gettime(clock).expect("the server runs").into()
    }

    /// Stops the process, as if its machine had frozen.
    ///
    /// # Panics
    /// If the process is gone.
    pub fn freeze(&self) {
        kill(self.pid, Signal::SIGSTOP).expect("the server runs");
    }

    /// Ends [`freeze`](Self::freeze).
    ///
    /// # Panics
    /// If the process is gone.
    pub fn thaw(&self) {
        kill(self.pid, Signal::SIGCONT).expect("the server exists");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        // The shell ends only after it has killed the server, so the port is free on return.
        let _ = self.shell.wait();
    }
}

/// Returns a TCP port of the loopback interface that no process uses.
///
/// Until this process ends, no other test gets it. Otherwise the server of another test could take
/// the port first, and would answer in place of the one that this test starts.
///
/// # Panics
/// If the system has none.
pub fn free_port() -> u16 {
    static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    loop {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        if let Ok(reserved) = reserve(port) {
            RESERVED.lock().unwrap_or_else(PoisonError::into_inner).push(reserved);
            return port;
        }
    }
}

/// Takes a name that belongs to one process, and that the kernel frees with it.
fn reserve(port: u16) -> io::Result<UnixListener> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(format!("onelock-test-port-{port}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_is_given_to_one_test() {
        let port = free_port();
        assert!(reserve(port).is_err(), "another test could get port {port}");
    }
}
