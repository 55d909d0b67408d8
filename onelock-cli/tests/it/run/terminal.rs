//! On a terminal, under an interactive shell, a job behaves as it does without `onelock`.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use nix::{
    fcntl::OFlag,
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
    sys::signal::{SIGCONT, SIGKILL, SIGSTOP, SIGUSR1, kill},
    unistd::{Pid, getsid},
};

use super::fixture::{Locks, Running, eventually, is_alive, parse_pid, read, state, without_preferences};

/// Returns both ends of a new terminal.
fn pseudo_terminal() -> (File, File) {
    // Not `openpty`, because processes of concurrent tests would inherit its descriptors.
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname_r(&master).unwrap();
    let slave = File::options().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(path).unwrap();
    (File::from(OwnedFd::from(master)), slave)
}

/// An interactive bash on its own terminal.
struct Terminal {
    bash: Child,
    keyboard: File,
    screen: Arc<Mutex<String>>,
    seen: usize,
}

impl Terminal {
    fn new(locks: &Locks) -> Self {
        let (keyboard, slave) = pseudo_terminal();
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        assert!(Command::new("stty").args(["rows", "24", "cols", "200"]).stdin(stdio()).status().unwrap().success());
        let binary = std::path::Path::new(env!("CARGO_BIN_EXE_onelock")).parent().unwrap();
        let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
        let mut bash = Command::new("setsid");
        let bash = without_preferences(&mut bash)
            .args(["--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"])
            .envs([("PS1", "READY> "), ("TERM", "xterm"), ("PATH", &path), ("ONELOCK_URL", &locks.url()), ("LESS", "")])
            .current_dir(locks.dir.path())
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        drop(slave);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut output, shared) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // A closed terminal is reported as an error (EIO).
            while let Ok(n @ 1..) = output.read(&mut bytes) {
                shared.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        let mut terminal = Self { bash, keyboard, screen, seen: 0 };
        terminal.expect("READY> ");
        terminal
    }

    /// Types `keys`.
    fn keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Types a line. The terminal echoes it, so a `''` in the middle of a word keeps `expect` from
    /// finding the echo.
    fn line(&mut self, line: &str) {
        self.keys(line);
        self.keys("\n");
    }

    /// Waits for `text` after the previously expected text, and returns the text between.
    #[track_caller]
    fn expect(&mut self, text: &str) -> String {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let screen = self.screen.lock().unwrap().clone();
            if let Some(at) = screen[self.seen..].find(text) {
                let between = screen[self.seen..self.seen + at].to_owned();
                self.seen += at + text.len();
                return between;
            }
            assert!(std::time::Instant::now() < end, "no {text:?} in {:?}", &screen[self.seen..]);
            thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The death of the shell hangs up the terminal, which ends its jobs.
        let _ = self.bash.kill();
        let _ = self.bash.wait();
    }
}

/// Returns a script that prints its parent and itself, and then reports each continue signal.
///
/// In Python, because bash loses a signal that arrives while it runs the trap of the same signal.
fn resumable(locks: &Locks) -> String {
    locks.script(
        "python3",
        r#"
import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGCONT, lambda *_: os.write(1, b"goes on\n"))
os.write(1, b"started %d,%d.\n" % (os.getppid(), os.getpid()))
while True:
    time.sleep(0.05)
"#,
    )
}

#[test]
// verifies: ctrl-z
fn ctrl_z_fg_and_ctrl_c_work_under_the_lock() {
    let locks = Locks::new();
    let script = resumable(&locks);
    let mut terminal = Terminal::new(&locks);
    terminal.line(&format!("onelock run x -- {script}"));
    terminal.expect("started");
    // Repeated, because Ctrl-Z may arrive after the command continues and before onelock does.
    for _ in 0..20 {
        terminal.keys("\x1a");
        let before = terminal.expect("Stopped");
        assert!(!before.contains("READY"), "{before:?}");
        terminal.expect("READY> ");
        assert!(!locks.is_free(), "a stopped job must keep its lock");
        terminal.line("fg");
        terminal.expect("goes on");
    }
    terminal.keys("\x03");
    terminal.expect("READY> ");
    terminal.line("echo rc''=$?");
    terminal.expect("rc=130");
    assert!(locks.is_free());
}

/// A frozen watchdog delays all that onelock forwards to the command.
#[test]
// verifies: ctrl-z
fn a_late_continue_signal_does_not_undo_ctrl_z() {
    let locks = Locks::new();
    let script = resumable(&locks);
    let mut terminal = Terminal::new(&locks);
    terminal.line(&format!("onelock run x -- {script}"));
    terminal.expect("started ");
    let (watchdog, command) = (parse_pid(&terminal.expect(",")), parse_pid(&terminal.expect(".")));
    terminal.keys("\x1a");
    terminal.expect("Stopped");
    terminal.expect("READY> ");
    kill(watchdog, SIGSTOP).unwrap();
    terminal.line("fg");
    terminal.expect("goes on");
    terminal.keys("\x1a");
    eventually("the command is stopped again", || state(command) == Some('T'));
    kill(watchdog, SIGCONT).unwrap();
    terminal.expect("Stopped");
    terminal.expect("READY> ");
    terminal.line("fg");
    terminal.expect("goes on");
    terminal.keys("\x03");
    terminal.expect("READY> ");
    assert!(locks.is_free());
}

#[test]
fn bg_continues_a_stopped_job_and_kill_ends_it() {
    let locks = Locks::new();
    let script = resumable(&locks);
    let mut terminal = Terminal::new(&locks);
    terminal.line(&format!("onelock run x -- {script}"));
    terminal.expect("started");
    terminal.keys("\x1a");
    terminal.expect("Stopped");
    terminal.line("bg");
    terminal.expect("goes on");
    terminal.line("kill %1; wait %1; echo rc''=$?");
    terminal.expect("rc=143");
    assert!(locks.is_free());
}

#[test]
fn a_key_reaches_the_command_once() {
    let locks = Locks::new();
    let script = locks.script(
        "python3",
        r#"
import os, signal, sys
count = [0]
def count_one(*_):
    count[0] += 1
    open("count", "w").write(str(count[0]))
signal.signal(signal.SIGINT, count_one)
signal.signal(signal.SIGUSR1, lambda *_: (print("interrupted", count[0], "times", flush=True), os._exit(0)))
# From /proc and not from ps, which prints nothing at all when it cannot be started.
stat = open("/proc/%d/stat" % os.getppid()).read()
print("supervisor", stat.rsplit(")", 1)[1].split()[1], "end", flush=True)
while True: signal.pause()
"#,
    );
    let mut terminal = Terminal::new(&locks);
    terminal.line(&format!("onelock run x -- {script}"));
    terminal.expect("supervisor ");
    let supervisor = parse_pid(&terminal.expect(" end"));
    let count = locks.dir.path().join("count");
    for i in 1..=5 {
        terminal.keys("\x03");
        eventually("the key arrived", || read(&count) == i.to_string());
    }
    // onelock handles signals in the order of their numbers, so a forwarded SIGINT would come
    // before this one.
    kill(supervisor, SIGUSR1).unwrap();
    terminal.expect("interrupted 5 times");
}

#[test]
fn ctrl_c_ends_a_loop_of_the_shell() {
    let locks = Locks::new();
    let mut terminal = Terminal::new(&locks);
    terminal.line("for i in 1 2 3; do onelock run x -- sh -c 'echo ro''und; exec sleep 1000'; done; echo lo''op rc=$?");
    terminal.expect("round");
    terminal.keys("\x03");
    let between = terminal.expect("READY> ");
    assert!(!between.contains("round"), "{between:?}");
}

#[test]
fn ctrl_c_while_waiting_ends_the_wait() {
    let locks = Locks::new();
    let mut holder = Running::start(&mut locks.run(["x", "-c", "echo held; sleep 1000"]));
    holder.expect_line("held");
    let mut terminal = Terminal::new(&locks);
    terminal.line("onelock run x -- true");
    terminal.expect("onelock: waiting for \"x\" for 0s, held by ");
    terminal.expect("onelock: waiting for \"x\" for 1s, held by ");
    terminal.keys("\x1a");
    terminal.expect("Stopped");
    terminal.line("fg");
    terminal.expect("onelock: waiting for \"x\" for ");
    terminal.keys("\x03");
    terminal.expect("READY> ");
    terminal.line("echo rc''=$?");
    terminal.expect("rc=130");
}

#[cfg(all(feature = "redis", feature = "dynamo"))]
#[test]
// verifies: silent-retry
fn a_store_that_is_away_is_reported_without_verbose() {
    let locks = Locks::new();
    let mut terminal = Terminal::new(&locks);
    terminal.line(&format!("onelock run --url redis://127.0.0.1:{} x -- true", super::outage::refused_port()));
    terminal.expect("onelock: acquire \"x\" on redis://");
    terminal.expect("; retrying for up to 30 s");
    terminal.keys("\x03");
    terminal.expect("READY> ");
}

#[test]
fn full_screen_programs_work() {
    let locks = Locks::new();
    let text: String = (1..=500).map(|i| format!("line {i} of it\n")).collect();
    std::fs::write(locks.dir.path().join("text"), text).unwrap();
    let mut terminal = Terminal::new(&locks);
    for command in
        ["onelock run x -- less text", "onelock run x -- cat text | less", "cat text | onelock run x -- less"]
    {
        terminal.line(command);
        terminal.expect("line 1 of it");
        terminal.keys("G");
        terminal.expect("line 500 of it");
        terminal.keys("q");
        terminal.expect("READY> ");
        terminal.line("echo rc''=${PIPESTATUS[*]}");
        let statuses = terminal.expect("READY> ");
        // `cat` may fail because its reader has ended.
        assert!(statuses.contains("rc=0"), "{command}: {statuses:?}");
    }
}

#[test]
fn a_background_job_that_reads_the_terminal_is_stopped() {
    let locks = Locks::new();
    let mut terminal = Terminal::new(&locks);
    terminal.line("onelock run x -- cat &");
    terminal.line("while ! jobs | grep -q 'Stopped'; do sleep 0.05; done; jobs");
    terminal.expect("Stopped");
    terminal.expect("READY> ");
    terminal.line("kill -9 %1; wait; echo do''ne");
    terminal.expect("done");
    eventually("the lock is free", || locks.is_free());
}

#[test]
fn killing_the_job_kills_descendants_that_left_it() {
    let locks = Locks::new();
    let mut terminal = Terminal::new(&locks);
    terminal.line("onelock run x -- bash -c 'setsid sleep 1000 & echo pid $! end; wait' &");
    terminal.expect("pid ");
    // The first match is the echo of the line.
    terminal.expect("pid ");
    let sleeper: Pid = parse_pid(&terminal.expect(" end"));
    assert!(is_alive(sleeper));
    kill_job(&mut terminal, &locks, sleeper);
}

/// Kills the shell's last background job. The lock must not be free before `descendant`, which left
/// the job, is dead.
fn kill_job(terminal: &mut Terminal, locks: &Locks, descendant: Pid) {
    terminal.line("kill -9 -$!");
    locks.dead_before_free(&[descendant]);
}

#[test]
fn watchdog_leaves_the_process_group_before_exec() {
    let locks = Locks::new();
    // The library delays the watchdog's `setsid`, so a fast command would overtake it.
    let slow = locks.library(
        r#"
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <unistd.h>
        pid_t setsid(void) {
            usleep(300000);
            return ((pid_t (*)(void)) dlsym(RTLD_NEXT, "setsid"))();
        }"#,
    );
    let mut terminal = Terminal::new(&locks);
    terminal.line(&format!(
        "LD_PRELOAD={} onelock run x -- env -u LD_PRELOAD bash -c 'setsid sleep 1000 & echo pid'' $! end; wait' &",
        slow.display()
    ));
    terminal.expect("pid ");
    let sleeper: Pid = parse_pid(&terminal.expect(" end"));
    eventually("the descendant has left the job", || getsid(Some(sleeper)) == Ok(sleeper));
    kill_job(&mut terminal, &locks, sleeper);
}

#[test]
fn closing_the_terminal_ends_the_job() {
    let locks = Locks::new();
    let mut terminal = Terminal::new(&locks);
    terminal.line("onelock run x -- sh -c 'echo pid'' $$ end; sleep 1000'");
    terminal.expect("pid ");
    let command = parse_pid(&terminal.expect(" end"));
    kill(Pid::from_raw(terminal.bash.id() as i32), SIGKILL).unwrap();
    eventually("the command has ended", || !is_alive(command));
    eventually("the lock is free", || locks.is_free());
}

/// As `ssh -t` and `kubectl exec -it` start it, without a shell that would pass the signal on.
#[test]
fn closing_the_terminal_of_a_session_ends_the_command() {
    let locks = Locks::new();
    let (master, slave) = pseudo_terminal();
    let stdio = || Stdio::from(slave.try_clone().unwrap());
    let mut command = Command::new("setsid");
    let command = without_preferences(&mut command)
        .args(["--ctty", env!("CARGO_BIN_EXE_onelock"), "run", "--url", &locks.url(), "x", "--"])
        .args(["sh", "-c", "echo started; exec sleep 1000"])
        .stdin(stdio())
        .stdout(stdio())
        .stderr(stdio());
    let mut onelock = command.spawn().unwrap();
    let mut screen = BufReader::new(master);
    let mut line = String::new();
    screen.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), "started");
    drop(screen);
    eventually("the lock is free", || locks.is_free());
    onelock.wait().unwrap();
}
