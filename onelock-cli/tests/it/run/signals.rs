//! Each signal that is sent to `onelock` reaches the command once.

use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::Signal::{self, *};

use super::fixture::{Locks, Running, eventually, onelock, state};

/// Prints the name of each received signal, until SIGUSR2.
const LISTENER: &str = r#"
import signal, sys
wanted = {s for s in signal.valid_signals() if s not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD)}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
print("ready", flush=True)
while True:
    got = signal.sigwait(wanted)
    print(signal.Signals(got).name if got < 32 else "RT", flush=True)
    if got == signal.SIGUSR2: sys.exit(5)
"#;

fn listener(locks: &Locks) -> Running {
    let script = locks.script("python3", LISTENER);
    let mut running = Running::start(&mut locks.run(["x", &script]));
    running.expect_line("ready");
    running
}

#[test]
fn each_signal_is_forwarded_once_and_does_not_end_onelock() {
    let locks = Locks::new();
    let mut running = listener(&locks);
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGWINCH, SIGALRM, SIGCONT, SIGIO, SIGPIPE] {
        running.signal(signal);
        running.expect_line(signal.as_str());
    }
    running.signal(SIGUSR2);
    running.expect_line("SIGUSR2");
    running.ends_with(5);
}

#[test]
fn a_signal_between_acquire_and_start_is_not_lost() {
    // The moment is short, so the signal is sent at many different times. Before the lock is held,
    // the signal ends onelock. Afterwards it reaches the command, or ends it before it listens. It
    // always has an effect.
    let locks = Locks::new();
    let script = locks.script("python3", LISTENER);
    // The moments are spread over the time that a run takes on this machine.
    let began = std::time::Instant::now();
    Running::start(&mut locks.run(["x", "true"])).ends_with(0);
    let step = began.elapsed() / 60;
    for number in 0..60 {
        let running = Running::start(&mut locks.run(["x", &script]));
        eventually("setsid has become onelock", || {
            let exe = std::fs::read_link(format!("/proc/{}/exe", running.pid())).unwrap_or_default();
            exe.ends_with("onelock")
        });
        std::thread::sleep(step * number);
        running.signal(SIGUSR2);
        let (status, message) = running.wait();
        let by = status.signal().or(status.code());
        assert!([12, 128 + 12, 5].contains(&by.unwrap()), "{status:?} {message}");
    }
    eventually("the lock is free", || locks.is_free());
}

#[test]
fn a_signal_during_the_wait_ends_onelock() {
    let locks = Locks::new();
    let mut holder = Running::start(&mut locks.run(["x", "-c", "echo held; sleep 1000"]));
    holder.expect_line("held");
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGALRM] {
        let mut waiter = Running::start(&mut locks.run(["-v", "x", "true"]));
        waiter.expect_waiting();
        waiter.signal(signal);
        assert_eq!(waiter.wait().0.signal(), Some(signal as i32));
    }
}

#[test]
fn an_ignored_signal_does_not_end_the_wait() {
    let locks = Locks::new();
    let mut holder = Running::start(&mut locks.run(["x", "-c", "echo held; sleep 1000"]));
    holder.expect_line("held");
    let mut command = std::process::Command::new("env");
    command.arg("--ignore-signal=HUP").arg(env!("CARGO_BIN_EXE_onelock"));
    command.args(["run", "--url", &locks.url(), "-v", "x", "true"]);
    let mut waiter = Running::start(&mut command);
    waiter.expect_waiting();
    waiter.signal(SIGHUP);
    waiter.signal(SIGWINCH);
    drop(holder);
    assert!(waiter.wait().0.success());
}

#[test]
fn the_command_stops_and_continues_with_onelock() {
    let locks = Locks::new();
    // Not a loop of short commands, because a shell cannot stop while it waits for a child that was
    // stopped before its start.
    let mut running = Running::start(&mut locks.run(["x", "-c", "echo ready; exec sleep 1000"]));
    running.expect_line("ready");
    let command = running.command();
    for _ in 0..3 {
        running.signal(SIGTSTP);
        eventually("both are stopped", || state(command) == Some('T') && state(running.pid()) == Some('T'));
        running.signal(SIGCONT);
        eventually("both continue", || {
            state(command).is_some_and(|s| s != 'T') && state(running.pid()).is_some_and(|s| s != 'T')
        });
    }
    assert!(!locks.is_free());
}

#[test]
fn a_command_that_is_stopped_alone_does_not_stop_onelock() {
    let locks = Locks::new();
    let mut running = listener(&locks);
    let command = running.command();
    nix::sys::signal::kill(command, SIGSTOP).unwrap();
    eventually("the command is stopped", || state(command) == Some('T'));
    // onelock still forwards signals, so it is not stopped.
    running.signal(Signal::SIGCONT);
    running.expect_line("SIGCONT");
}

#[test]
fn a_terminated_doctor_leaves_nothing_behind() {
    let locks = Locks::new();
    let traces = || {
        let names = std::fs::read_dir(locks.dir.path().join("locks")).into_iter().flatten();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        // The lock of --peer is shared by all runs, and stays.
        names.filter(|name| name.contains("onelock-doctor") && !name.contains("peer")).count()
    };
    let running = Running::start(&mut onelock(["doctor", "--peer", "--within", "1h", "--url", &locks.url()]));
    eventually("the doctor holds locks", || traces() > 0);
    running.signal(SIGTERM);
    assert_eq!(running.wait().0.signal(), Some(SIGTERM as i32));
    assert_eq!(traces(), 0);
}

#[test]
fn a_terminated_doctor_waits_for_its_second_process() {
    // Marks the start and the end of the second process, which takes its time.
    const SLOW_SECOND_PROCESS: &str = r#"
        #include <fcntl.h>
        #include <stdlib.h>
        #include <string.h>
        #include <unistd.h>
        static int second;
        static void mark(const char *variable) {
            if (second) close(open(getenv(variable), O_CREAT | O_WRONLY, 0600));
        }
        __attribute__((constructor)) static void started(int argc, char **argv) {
            second = argc > 1 && !strcmp(argv[1], "doctor-second-process");
            mark("STARTED");
            if (second) sleep(1);
        }
        __attribute__((destructor)) static void ended(void) { mark("ENDED"); }
    "#;
    let locks = Locks::new();
    let [started, ended] = ["started", "ended"].map(|name| locks.dir.path().join(name));
    let mut command = onelock(["doctor", "--url", &locks.url()]);
    command.env("LD_PRELOAD", locks.library(SLOW_SECOND_PROCESS)).env("STARTED", &started).env("ENDED", &ended);
    let running = Running::start(&mut command);
    eventually("the second process runs", || started.exists());
    running.signal(SIGTERM);
    assert_eq!(running.wait().0.signal(), Some(SIGTERM as i32));
    assert!(ended.exists(), "the second process was still running");
}

#[cfg(feature = "torture")]
#[test]
fn a_terminated_torture_leaves_nothing_behind() {
    let locks = Locks::new();
    let entries = |directory: &str| std::fs::read_dir(locks.dir.path().join(directory)).into_iter().flatten().count();
    std::fs::create_dir(locks.dir.path().join("tmp")).unwrap();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let mut command = onelock(["torture", "--time", "1h", "--url", &locks.url()]);
        let running = Running::start(command.env("TMPDIR", locks.dir.path().join("tmp")));
        eventually("the processes run", || !super::fixture::children(running.pid()).is_empty());
        let processes = super::fixture::children(running.pid());
        running.signal(signal);
        let (status, message) = running.wait();
        assert_eq!(status.signal(), Some(signal as i32), "{message}");
        assert!(!processes.is_empty() && !processes.into_iter().any(super::fixture::is_alive));
        assert_eq!((entries("tmp"), entries("locks")), (0, 0), "{message}");
    }
}
