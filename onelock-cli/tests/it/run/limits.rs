//! `--min-hold`, `--max-hold`, `--deadline` and `--spread`.

use nix::sys::signal::Signal;

use super::fixture::{Locks, Running, code, eventually, onelock, output};

#[test]
fn max_hold_stops_the_command_and_says_so() {
    let locks = Locks::new();
    let stopped = output(&mut locks.run(["--max-hold", "500ms", "x", "sleep", "600"]));
    assert_eq!(stopped.status.code(), Some(75), "{stopped:?}");
    let said = String::from_utf8(stopped.stderr).unwrap();
    assert!(said.contains("max_hold was reached"), "{said}");
    assert!(locks.is_free());
}

#[test]
fn min_hold_outlasts_a_short_command() {
    let locks = Locks::new();
    assert_eq!(code(&mut locks.run(["--min-hold", "1h", "x", "true"])), 0);
    assert_eq!(code(&mut locks.run(["-n", "x", "true"])), 1);
    assert_eq!(code(&mut locks.run(["-n", "y", "true"])), 0);
}

#[test]
fn a_deadline_stops_the_command() {
    let locks = Locks::new();
    let stopped = output(&mut locks.run(["--deadline", "1s", "x", "sleep", "600"]));
    assert_eq!(stopped.status.code(), Some(75), "{stopped:?}");
    assert!(String::from_utf8(stopped.stderr).unwrap().contains("deadline"));
}

#[test]
fn a_deadline_counts_the_wait_for_the_lock() {
    let locks = Locks::new();
    let mut holder = Running::start(&mut locks.run(["x", "sh", "-c", "echo held; exec sleep 600"]));
    holder.expect_line("held");
    let late = output(&mut locks.run(["--deadline", "500ms", "x", "echo", "ran"]));
    assert_eq!(late.status.code(), Some(69), "{late:?}");
    assert!(late.stdout.is_empty());
}

#[test]
fn spread_delays_an_attempt_without_a_wait_and_can_be_ended() {
    let locks = Locks::new();
    let mut delayed = Running::start(&mut locks.run(["-n", "--spread", "8000h", "x", "echo", "ran"]));
    for _ in 0..3 {
        assert_eq!(code(&mut locks.run(["-n", "--spread", "1ms", "x", "true"])), 0, "the delayed command has no lock");
    }
    delayed.signal(Signal::SIGTERM);
    assert_eq!(delayed.line(), "", "the delayed command does not run");
    let (status, message) = delayed.wait();
    assert!(!status.success(), "{message}");
}

#[test]
fn hold_has_the_same_limits() {
    let locks = Locks::new();
    let url = locks.url();
    let mut hold = onelock(["hold", "--url", &url, "--on-loss", "tell", "--max-hold", "500ms", "x"]);
    let mut hold = hold.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let _open = hold.stdin.take();
    assert_eq!(hold.wait().unwrap().code(), Some(75));
    eventually("the lock is free", || locks.is_free());
}

#[test]
fn a_command_that_replaces_onelock_has_no_limits() {
    let locks = Locks::new();
    for limit in [["--max-hold", "1h"], ["--min-hold", "1h"], ["--deadline", "1h"], ["--metrics-file", "x.prom"]] {
        assert_eq!(code(locks.run(["-F"]).args(limit).args(["x", "true"])), 64, "{limit:?}");
    }
    for limit in ["min_hold=1h", "max_hold=1h"] {
        let url = format!("{}?{limit}", locks.url());
        let refused = output(&mut onelock(["run", "--url", &url, "-F", "x", "echo", "ran"]));
        assert_eq!(refused.status.code(), Some(78), "{refused:?}");
        assert!(refused.stdout.is_empty() && String::from_utf8_lossy(&refused.stderr).contains("omit --no-fork"));
    }
}
