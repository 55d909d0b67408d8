//! A store with leases: the command ends before the lease does, whatever happens to the supervisor.
//! The locks of the memory store are private to one process, but its leases end like all others.

use nix::sys::signal::{SIGCONT, SIGKILL, SIGSTOP, kill};

use super::fixture::{Locks, Running, eventually, is_alive, onelock, parse_pid, state, stdout};

/// A command that reports SIGTERM and keeps running.
const STUBBORN: &str = r#"
trap 'echo term' TERM
setsid sh -c 'trap "" TERM; echo $$; while :; do sleep 0.01; done' &
wait -n 2>/dev/null
while :; do sleep 0.01; done
"#;

fn stubborn(locks: &Locks, url: &str, grace: &str) -> Running {
    let script = locks.script("bash", STUBBORN);
    Running::start(&mut onelock(["run", "--url", url, "--ttl", "2s", "--grace", grace, "x", &script]))
}

#[cfg(feature = "redis")]
#[test]
fn a_frozen_supervisors_command_is_stopped_before_expiry() {
    let (locks, server) = (Locks::new(), test_support::redis::RedisServer::start());
    let url = format!("redis://{}", server.addr());
    let mut running = stubborn(&locks, &url, "400ms");
    let offspring = parse_pid(&running.line());
    let command = running.command();
    running.signal(SIGSTOP);
    running.expect_line("term");
    // The next holder marks the end of the lease.
    assert_eq!(stdout(&mut onelock(["run", "--url", &url, "x", "echo", "another"])), "another\n");
    assert!(!is_alive(command) && !is_alive(offspring), "a process outlived the lease");
    running.signal(SIGCONT);
    let message = running.ends_with(75);
    assert!(message.starts_with("onelock: the lock \"x\" was lost: "), "{message}");
}

#[test]
fn a_stopped_command_is_killed_at_the_end_of_the_lease() {
    let locks = Locks::new();
    let mut running = stubborn(&locks, "memory:", "0s");
    let offspring = parse_pid(&running.line());
    let command = running.command();
    running.signal(nix::sys::signal::SIGTSTP);
    eventually("onelock is stopped", || state(running.pid()) == Some('T'));
    eventually("all are dead", || !is_alive(command) && !is_alive(offspring));
    running.signal(SIGCONT);
    running.ends_with(75);
}

#[test]
fn renewals_reach_the_watchdog() {
    // The command takes longer than one ttl, which a busy machine needs for a renewal.
    let text = stdout(&mut onelock(["run", "--url", "memory:", "--ttl", "3s", "x", "-c", "sleep 5; echo done"]));
    assert_eq!(text, "done\n");
}

#[test]
// verifies: hung-process
fn a_hung_watchdog_does_not_keep_the_command_alive() {
    let locks = Locks::new();
    let mut running = Running::start(&mut locks.run(["x", "-c", "echo $$; sleep 1000"]));
    let command = parse_pid(&running.line());
    kill(running.watchdog(), SIGSTOP).unwrap();
    // Removing the lock file causes the loss of the lock.
    std::fs::remove_file(locks.file()).unwrap();
    running.ends_with(75);
    assert!(!is_alive(command));
}

#[cfg(feature = "redis")]
#[test]
// verifies: hung-process
fn a_hung_watchdog_gets_no_time_beyond_the_lease() {
    let server = test_support::redis::RedisServer::start();
    let (to_test, from_thread) = std::sync::mpsc::channel();
    let address = server.addr();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            to_test.send(test_support::Proxy::start(address).await).unwrap();
            std::future::pending::<()>().await;
        });
    });
    let proxy = from_thread.recv().unwrap();
    let url = format!("redis://{}", proxy.addr());
    let mut command = onelock(["run", "--url", &url, "--ttl", "3s", "x", "-c", "echo $$; sleep 1000"]);
    let mut running = Running::start(&mut command);
    let command = parse_pid(&running.line());
    kill(running.watchdog(), SIGSTOP).unwrap();
    proxy.refuse();
    proxy.cut();
    // The next holder marks the end of the lease.
    let direct = format!("redis://{}", server.addr());
    assert_eq!(stdout(&mut onelock(["run", "--url", &direct, "x", "echo", "another"])), "another\n");
    assert!(!is_alive(command), "the command outlived the lease");
    running.ends_with(75);
}

/// Another client may hold the lock already, so the command gets no grace time.
#[test]
// verifies: hung-process
fn a_lock_that_the_store_lost_kills_the_command() {
    let locks = Locks::new();
    let told = locks.dir.path().join("told");
    let line = format!("trap 'echo term >{}; exit 3' TERM; echo $$; while :; do sleep 0.01; done", told.display());
    let mut running = Running::start(&mut locks.run(["x", "-c", &line]));
    let command = parse_pid(&running.line());
    std::fs::remove_file(locks.file()).unwrap();
    let message = running.ends_with(75);
    assert!(message.contains("was lost") && message.contains("the command was stopped"), "{message}");
    assert!(!told.exists(), "the command was told to stop first");
    assert!(!is_alive(command));
}

#[test]
fn a_killed_supervisor_ends_a_leased_command() {
    let mut running = Running::start(&mut onelock(["run", "--url", "memory:", "x", "-c", "echo $$; sleep 1000"]));
    let command = parse_pid(&running.line());
    running.signal(SIGKILL);
    eventually("the command is dead", || !is_alive(command));
}

#[cfg(feature = "redis")]
#[test]
fn a_command_that_ends_after_its_lease_exits_with_75() {
    let (locks, server) = (Locks::new(), test_support::redis::RedisServer::start());
    let url = format!("redis://{}", server.addr());
    let go_on = locks.dir.path().join("go-on");
    nix::unistd::mkfifo(&go_on, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let line = format!("echo ready; read x < {}; exit 0", go_on.display());
    let mut running = Running::start(&mut onelock(["run", "--url", &url, "--ttl", "1s", "x", "-c", &line]));
    running.expect_line("ready");
    let (watchdog, command) = (running.watchdog(), running.command());
    for pid in [watchdog, running.pid()] {
        kill(pid, SIGSTOP).unwrap();
    }
    // The lease expires first, and then the store goes away.
    assert_eq!(stdout(&mut onelock(["run", "--url", &url, "x", "echo", "another"])), "another\n");
    drop(server);
    std::fs::write(&go_on, "\n").unwrap();
    eventually("the command has ended", || !is_alive(command));
    kill(watchdog, SIGCONT).unwrap();
    eventually("the watchdog has reported the end of the command", || state(watchdog) == Some('S'));
    running.signal(SIGCONT);
    running.ends_with(75);
}

/// The watchdog stops the command the grace time before the loss, which has not happened yet then.
#[test]
// verifies: true-reason
fn a_command_stopped_by_max_hold_is_told_so() {
    let locks = Locks::new();
    let files = format!("{}?max_hold=2s", locks.url());
    for url in ["memory:?max_hold=2s", &files] {
        for grace in ["0s", "1s"] {
            let mut run = onelock(["run", "--url", url, "--grace", grace, "x", "sleep", "1000"]);
            let message = Running::start(&mut run).ends_with(75);
            // The second run on files also tells that the first one ended without a release.
            let expected = "onelock: the lock \"x\" was lost: max_hold was reached; the command was stopped\n";
            assert!(message.ends_with(expected), "{url}, grace {grace}: {message}");
        }
    }
}
