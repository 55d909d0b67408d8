//! Finds and signals all descendants of a process, even after `setsid` or a change of process
//! group.
//!
//! This process must be a subreaper (`PR_SET_CHILD_SUBREAPER`) to find all of its own: orphans
//! among its descendants, as after a double fork, then become its children. Orphans of another
//! process are not found.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::Pid,
};

use crate::{
    exit::{self, Failure},
    sys,
};

/// The pause between two looks at killed processes; it doubles up to the second value.
const PAUSE: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(20));

/// A descendant. The handle, if the kernel gives one, keeps a signal from reaching another process
/// that got the same pid.
#[derive(Debug)]
struct Descendant {
    pid: Pid,
    handle: Option<OwnedFd>,
    group: Pid,
}

impl Descendant {
    /// Sends a signal. It fails if the process has ended, or if a set-user-id program may not be
    /// signalled. The only remedy for the latter is to wait.
    fn signal(&self, signal: i32) {
        let _ = match &self.handle {
            Some(handle) => sys::pidfd_kill(handle.as_fd(), signal),
            None => sys::kill(self.pid, signal),
        };
    }
}

/// Checks that `/proc` lists this process. Without it no descendant can be found, and with the
/// `/proc` of another PID namespace a signal could reach an unrelated process. The error names
/// `remedy` beside a mount of the right `/proc`.
pub(crate) fn check_proc(remedy: &str) -> Result<(), Failure> {
    let me = Pid::this().to_string();
    match fs::read_link("/proc/self") {
        Ok(listed) if listed.as_os_str() == me.as_str() => Ok(()),
        _ => Err(Failure::new(
            exit::OS,
            format!(
                "/proc does not list this process, so processes of the command could outlive the lock; mount the /proc \
                 of this PID namespace, or use {remedy}"
            ),
        )),
    }
}

/// Sends `signal` to every descendant once, and to the members of `group` in one call.
pub(super) fn signal_all(signal: i32, group: Option<Pid>) {
    if let Some(group) = group {
        let _ = sys::kill_group(group, signal);
    }
    let all = descendants();
    for descendant in all.iter().filter(|d| Some(d.group) != group) {
        descendant.signal(signal);
    }
}

/// Kills every descendant, and returns once the last one is reaped.
pub(super) fn kill_all(group: Option<Pid>) {
    let mut group = group;
    let mut pause = PAUSE.0;
    loop {
        signal_all(libc::SIGKILL, group);
        loop {
            match sys::next_change() {
                // Once the command is reaped, an unrelated group may get its number.
                Ok(Some((pid, _))) if Some(pid) == group => group = None,
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // ECHILD: no descendant is left.
                Err(_) => return,
            }
        }
        // Killed processes need a moment to die, and may have forked before the signal arrived.
        thread::sleep(pause);
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// How long a stop of a whole family may take. A process of another user cannot be stopped.
const STOP_TIMEOUT: Duration = Duration::from_millis(200);
/// How long killed processes may take to die, before the lock is released anyway.
const DEATH_TIMEOUT: Duration = Duration::from_secs(1);

/// A process that is no child of this one, and the handle that refers to it.
pub(crate) type Root<'a> = (Pid, BorrowedFd<'a>);

/// The descendants that a process had when it was asked to end. They stay known when it has ended,
/// and another process has become their parent. Clones share the handles.
#[derive(Debug, Clone, Default)]
pub(crate) struct Family(Vec<Arc<Descendant>>);

impl Family {
    /// Adds those of `other` that are not known yet, and forgets those that have ended.
    pub(crate) fn add(&mut self, other: Self) {
        let lives = |one: &Descendant| one.handle.as_ref().is_some_and(|handle| !has_ended(handle.as_fd()));
        self.0.retain(|known| lives(known));
        for one in other.0 {
            if self.0.iter().all(|known| known.pid != one.pid) {
                self.0.push(one);
            }
        }
    }

    /// Returns those that have not ended.
    pub(crate) fn living(&self) -> impl Iterator<Item = Root<'_>> {
        let handles = self.0.iter().filter_map(|one| Some((one.pid, one.handle.as_ref()?.as_fd())));
        handles.filter(|(_, handle)| !has_ended(*handle))
    }

    /// Waits until all have ended, at most for `limit`.
    pub(crate) fn wait(&self, limit: Duration) {
        wait_for_ends(self.living().map(|(_, handle)| handle), limit);
    }
}

/// Whether the process of `handle` has ended; it may be a zombie.
pub(crate) fn has_ended(handle: BorrowedFd<'_>) -> bool {
    let mut end = [PollFd::new(handle, PollFlags::POLLIN)];
    poll(&mut end, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn wait_for_ends<'a>(handles: impl Iterator<Item = BorrowedFd<'a>>, limit: Duration) {
    let end = Instant::now() + limit;
    for handle in handles {
        let left = end.saturating_duration_since(Instant::now());
        let mut dead = [PollFd::new(handle, PollFlags::POLLIN)];
        let _ = poll(&mut dead, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
    }
}

/// Sends SIGTERM to the process `root` and to its descendants, except to `spared` and the
/// descendants of that. A stopped process is continued, so that it can clean up.
pub(crate) fn terminate_family(root: Root<'_>, spared: Pid) -> Family {
    let family = family(root, spared);
    for signal in [libc::SIGTERM, libc::SIGCONT] {
        let _ = sys::pidfd_kill(root.1, signal);
        family.iter().for_each(|descendant| descendant.signal(signal));
    }
    Family(family.into_iter().map(Arc::new).collect())
}

/// Kills `roots` and their descendants, except `spared` and the descendants of that, and waits
/// until they are dead.
///
/// Their orphans do not become children of this process. So all are stopped first: a stopped
/// process starts no other, and does not react to the death of its parent.
pub(crate) fn kill_families(roots: &[Root<'_>], spared: Pid) {
    let end = Instant::now() + STOP_TIMEOUT;
    let mut pause = PAUSE.0;
    let signal_roots = |signal| {
        for (_, handle) in roots {
            let _ = sys::pidfd_kill(*handle, signal);
        }
    };
    let descendants = loop {
        signal_roots(libc::SIGSTOP);
        let found: Vec<_> = roots.iter().flat_map(|root| family(*root, spared)).collect();
        let running = || found.iter().filter(|descendant| !is_still(descendant.pid));
        running().for_each(|descendant| descendant.signal(libc::SIGSTOP));
        let roots_are_still = || roots.iter().all(|(pid, handle)| is_still(*pid) || has_ended(*handle));
        if (running().next().is_none() && roots_are_still()) || Instant::now() >= end {
            break found;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(PAUSE.1);
    };
    signal_roots(libc::SIGKILL);
    descendants.iter().for_each(|descendant| descendant.signal(libc::SIGKILL));
    let handles = descendants.iter().filter_map(|descendant| Some(descendant.handle.as_ref()?.as_fd()));
    wait_for_ends(handles.chain(roots.iter().map(|(_, handle)| *handle)), DEATH_TIMEOUT);
}

/// Lists the descendants of `root`; none if it has ended, because another process may have got its
/// pid.
fn family(root: Root<'_>, spared: Pid) -> Vec<Descendant> {
    let found = descendants_of(root.0, Some(spared));
    if sys::pidfd_kill(root.1, 0).is_ok() { found } else { Vec::new() }
}

/// Whether a process is stopped or has ended.
fn is_still(pid: Pid) -> bool {
    stat(pid).is_none_or(|stat| ['T', 't', 'Z', 'X'].contains(&stat.state))
}

fn descendants() -> Vec<Descendant> {
    descendants_of(Pid::this(), None)
}

/// Lists parents before children, so that no parent reacts to the death of its child. Leaves out
/// `spared` and its descendants, and this process, which `root` may have adopted.
fn descendants_of(root: Pid, spared: Option<Pid>) -> Vec<Descendant> {
    let mut found: Vec<Descendant> = Vec::new();
    let mut next = 0;
    let mut parent = root;
    let is_spared = |child: &Pid| Some(*child) == spared || *child == Pid::this();
    loop {
        for child in children(parent).into_iter().filter(|child| !is_spared(child)) {
            // The order matters: first the handle, then the check that it is the right process.
            let handle = sys::pidfd_open(child).ok();
            if let Some(stat) = stat(child)
                && (stat.parent == parent || stat.parent == root)
            {
                found.push(Descendant { pid: child, handle, group: stat.group });
            }
        }
        let Some(descendant) = found.get(next) else { return found };
        parent = descendant.pid;
        next += 1;
    }
}

fn children(pid: Pid) -> Vec<Pid> {
    children_by_list(pid).unwrap_or_else(|| children_by_scan(pid))
}

/// Reads `/proc/PID/task/*/children`; `None` if the kernel is built without these files.
fn children_by_list(pid: Pid) -> Option<Vec<Pid>> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Some(Vec::new()) };
    let mut children = Vec::new();
    for task in tasks.flatten() {
        match fs::read_to_string(task.path().join("children")) {
            Ok(list) => children.extend(list.split_ascii_whitespace().filter_map(parse_pid)),
            // Another task may have ended meanwhile. This process's own list is missing only if the
            // kernel has no such lists.
            Err(_) if pid == Pid::this() => return None,
            Err(_) => {}
        }
    }
    if children.is_empty() && pid != Pid::this() && !has_child_lists() { None } else { Some(children) }
}

fn has_child_lists() -> bool {
    fs::exists(format!("/proc/self/task/{}/children", Pid::this())).unwrap_or(false)
}

/// Looks at the parent of every process.
fn children_by_scan(pid: Pid) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| parse_pid(entry.file_name().to_str()?));
    pids.filter(|p| stat(*p).is_some_and(|stat| stat.parent == pid)).collect()
}

fn parse_pid(text: &str) -> Option<Pid> {
    text.parse().ok().map(Pid::from_raw)
}

/// Returns the children of this process that have ended and are not reaped.
pub(super) fn zombies() -> Vec<Pid> {
    children(Pid::this()).into_iter().filter(|pid| stat(*pid).is_some_and(|stat| stat.state == 'Z')).collect()
}

/// Whether the process is stopped, as after Ctrl-Z.
pub(crate) fn is_stopped(pid: Pid) -> bool {
    stat(pid).is_some_and(|stat| stat.state == 'T')
}

struct Stat {
    state: char,
    parent: Pid,
    group: Pid,
}

/// Reads `/proc/PID/stat`: `pid (comm) state ppid pgrp …`, where `comm` may contain anything.
fn stat(pid: Pid) -> Option<Stat> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after = stat.iter().rposition(|b| *b == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[after..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some(Stat { state, parent: parse_pid(fields.next()?)?, group: parse_pid(fields.next()?)? })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn child_lists_and_a_scan_find_the_same_children() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        assert!(children_by_scan(Pid::this()).contains(&pid));
        if let Some(listed) = children_by_list(Pid::this()) {
            assert!(listed.contains(&pid));
        }
        assert_eq!(stat(pid).unwrap().parent, Pid::this());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGSTOP).unwrap();
        nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WUNTRACED)).unwrap();
        assert!(is_stopped(pid) && !is_stopped(Pid::this()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
