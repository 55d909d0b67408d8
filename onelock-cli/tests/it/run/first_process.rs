//! `onelock` as the first process of a container.

use std::{fs, path::Path, process::Command};

use nix::unistd::Pid;

use super::fixture::{Locks, Running, children, eventually, parse_pid, read};

const NAMESPACE: &[&str] = &["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];

/// Runs a program in the container that leaves 20 orphans, as exec probes do, and waits until none
/// of them is left, not even as a zombie.
fn leave_orphans(first: Pid, list: &Path) {
    let _ = fs::remove_file(list);
    let orphan = format!("sh -c 'echo $$ >>{}'", list.display());
    let mut probe = Command::new("nsenter");
    probe.args(["--target", &first.to_string(), "--user", "--preserve-credentials", "--pid", "--mount"]);
    probe.args(["sh", "-c", &format!("for i in $(seq 20); do ({orphan} &) ; done")]);
    assert!(probe.status().unwrap().success());
    eventually("all orphans ran", || read(list).lines().count() == 20);
    let proc = format!("/proc/{first}/root/proc");
    assert!(fs::exists(format!("{proc}/1")).unwrap());
    for pid in read(list).lines() {
        eventually("the orphan is reaped", || !fs::exists(format!("{proc}/{}", parse_pid(pid))).unwrap());
    }
}

#[test]
// verifies: first-process
fn the_first_process_of_a_container_reaps_orphans() {
    let locks = Locks::new();
    let mut holder = Running::start(&mut locks.run(["x", "-c", "echo held; sleep 1000"]));
    holder.expect_line("held");
    let [list, stop] = ["list", "stop"].map(|name| locks.dir.path().join(name));
    let job = format!("echo started; until [ -e {} ]; do sleep 0.02; done; exit 7", stop.display());
    let mut command = Command::new("unshare");
    command.args(NAMESPACE).arg(env!("CARGO_BIN_EXE_onelock"));
    command.args(["run", "-v", "--url", &locks.url(), "x", "-c", &job]);
    let mut container = Running::start(&mut command);
    container.expect_waiting();
    let first = children(container.pid())[0];
    leave_orphans(first, &list);

    drop(holder);
    container.expect_line("started");
    leave_orphans(first, &list);
    fs::write(stop, "").unwrap();
    container.ends_with(7);
}
