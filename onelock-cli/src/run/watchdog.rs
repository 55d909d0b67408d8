//! The watchdog: the parent of the command, in a separate process, so that the command ends before
//! the lock does, whatever happens to the supervisor.
//!
//! If the lock lives in descriptors, the watchdog shares them: the kernel does not free the lock
//! before the watchdog unlocks. If the lock has a lease, the watchdog knows the end of the
//! lease and acts without a message. It uses no runtime and no thread.

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    time::Duration,
};

use lock_core::clock::{Clock, ClockReading, SystemClock};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::{Pid, setpgid, setsid},
};

use super::{
    alarm::{self, Alarm},
    child::Job,
    process_tree,
    protocol::{Channel, ToWatchdog, WatchdogEvent},
};
use crate::{exit, sys};

/// Runs the watchdog to its end, in the process that was forked for it.
pub(super) fn main(supervisor: Channel, job: &Job) -> ! {
    let _ = prctl::set_name(c"lock-watchdog");
    // Orphans of the command become children of this process instead of init's, so none escapes.
    let code = match prctl::set_child_subreaper(true).and_then(|()| wait_for_start(supervisor, job)) {
        Ok(()) => 0,
        Err(_) => i32::from(exit::OS),
    };
    sys::exit_now(code)
}

fn wait_for_start(supervisor: Channel, job: &Job) -> nix::Result<()> {
    match supervisor.receive()? {
        Some((ToWatchdog::Start { token, deadline }, locks)) => start(supervisor, job, token, deadline, locks),
        // The supervisor ended without the lock, or sent a message that makes no sense without it.
        _ => Ok(()),
    }
}

fn start(
    supervisor: Channel,
    job: &Job,
    token: Option<u64>,
    mut deadline: Option<ClockReading>,
    locks: Vec<OwnedFd>,
) -> nix::Result<()> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    let children = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let alarm = Alarm::new()?;
    // This process may have been frozen since the message was sent.
    let Some(signals) = read_queued(&supervisor, &mut deadline)?.filter(|_| !deadline.is_some_and(alarm::has_passed))
    else {
        drop(locks);
        return supervisor.send(WatchdogEvent::TooLate, &[]);
    };
    // The watchdog leaves the group before the command starts. Otherwise a signal to the whole
    // group could kill the watchdog, and no process would clean up.
    let command = match job.spawn(token, deadline, || leave_process_group(job)) {
        Ok(command) => command,
        Err(error) => {
            drop(locks);
            return supervisor.send(WatchdogEvent::NotStarted(error.raw_os_error().unwrap_or(libc::EINVAL)), &[]);
        }
    };
    job.inherited.close_command_descriptors(false);
    let lease = deadline.map(|at| at.since(SystemClock.now()));
    let grace = job.grace(lease);
    let group = job.own_group.then_some(command);
    let watchdog =
        Watchdog { supervisor, children, alarm, locks, command, group, grace, deadline, kill_at: None, ended: false };
    // If the supervisor has ended by now, the loop notices.
    let _ = watchdog.supervisor.send(WatchdogEvent::Started, &[]);
    signals.into_iter().for_each(|signal| watchdog.pass_on(signal));
    watchdog.watch()
}

/// Reads what the supervisor has sent since it asked for the start: new ends of the lease, and
/// signals for the command, which are returned. `None` if the command must not start.
fn read_queued(supervisor: &Channel, deadline: &mut Option<ClockReading>) -> nix::Result<Option<Vec<i32>>> {
    let mut signals = Vec::new();
    loop {
        let mut source = [PollFd::new(supervisor.as_fd(), PollFlags::POLLIN)];
        match poll(&mut source, PollTimeout::ZERO) {
            Ok(0) => return Ok(Some(signals)),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error),
        }
        match supervisor.receive()? {
            Some((ToWatchdog::Deadline(at), _)) => *deadline = Some(at),
            Some((ToWatchdog::Signal(signal), _)) => signals.push(signal),
            Some((ToWatchdog::Lost { .. } | ToWatchdog::Finish | ToWatchdog::Start { .. }, _)) | None => {
                return Ok(None);
            }
        }
    }
}

/// Moves the watchdog out of the job's process group, so that SIGKILL to the group leaves a process
/// that cleans up.
fn leave_process_group(job: &Job) {
    let _ = if job.own_group {
        // Staying in the session keeps the command's group from being an orphaned one, in which
        // SIGTSTP has no effect.
        setpgid(Pid::from_raw(0), Pid::from_raw(0))
    } else {
        // The watchdog leaves the session. As a parent in another group of the session it would
        // keep the command's group from becoming an orphaned one. Ctrl-Z would then stop a job
        // that no shell can continue.
        setsid().map(drop)
    };
}

struct Watchdog {
    supervisor: Channel,
    children: SignalFd,
    alarm: Alarm,
    locks: Vec<OwnedFd>,
    command: Pid,
    /// The command's own process group, until the command is reaped.
    group: Option<Pid>,
    grace: Duration,
    /// The end of the lease.
    deadline: Option<ClockReading>,
    /// When to kill the command, which has been told to stop.
    kill_at: Option<ClockReading>,
    /// Whether the command has ended.
    ended: bool,
}

/// Whether the watch goes on.
enum Next {
    Watch,
    End,
}

impl Watchdog {
    fn watch(mut self) -> nix::Result<()> {
        loop {
            self.alarm.set(self.next_alarm())?;
            let supervisor_is_ready = self.wait()?;
            if let Next::End = self.reap_children() {
                return Ok(());
            }
            if supervisor_is_ready && let Next::End = self.handle_message() {
                return Ok(());
            }
            if let Next::End = self.check_deadlines() {
                return Ok(());
            }
        }
    }

    /// Sleeps until an event; whether it came from the supervisor.
    fn wait(&self) -> nix::Result<bool> {
        let [boot, wall] = self.alarm.descriptors();
        let mut sources =
            [self.supervisor.as_fd(), self.children.as_fd(), boot, wall].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut sources, PollTimeout::NONE) {
            Ok(_) => Ok(sources[0].any().unwrap_or(true)),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn next_alarm(&self) -> Option<ClockReading> {
        // After its own end, the command's remaining processes may outlive the lock.
        let deadline = self.deadline.filter(|_| !self.ended);
        self.kill_at.or_else(|| deadline.map(|at| alarm::before(at, self.grace)))
    }

    /// Handles one message from the supervisor.
    fn handle_message(&mut self) -> Next {
        match self.supervisor.receive() {
            Ok(Some((ToWatchdog::Signal(signal), _))) if !self.ended => self.pass_on(signal),
            Ok(Some((ToWatchdog::Deadline(at), _))) => self.deadline = Some(at),
            // Another client may hold the lock already.
            Ok(Some((ToWatchdog::Lost { known: true }, _))) if !self.ended => {
                self.kill_at = Some(alarm::from_now(Duration::ZERO));
            }
            Ok(Some((ToWatchdog::Lost { .. }, _))) => self.stop_command(),
            Ok(Some((ToWatchdog::Finish, _))) if self.ended => return Next::End,
            Ok(Some((ToWatchdog::Signal(_) | ToWatchdog::Start { .. }, _))) | Err(Errno::EINTR) => {}
            // The supervisor died or failed, so no process renews or releases the lock any more.
            Ok(Some((ToWatchdog::Finish, _)) | None) | Err(_) => {
                process_tree::kill_all(self.group);
                self.unlock();
                return Next::End;
            }
        }
        Next::Watch
    }

    fn pass_on(&self, signal: i32) {
        let _ = match self.group {
            Some(group) => sys::kill_group(group, signal),
            None => sys::kill(self.command, signal),
        };
    }

    fn reap_children(&mut self) -> Next {
        while let Ok(Some(_)) = self.children.read_signal() {}
        loop {
            match sys::next_change() {
                Ok(Some((pid, status))) if pid == self.command => match status.stopped_signal() {
                    Some(signal) => {
                        let _ = self.supervisor.offer(WatchdogEvent::Stopped { signal, pid: pid.as_raw() });
                    }
                    None => {
                        self.ended = true;
                        self.group = None;
                        if self.kill_at.is_none() {
                            // The watch goes on: the supervisor may have been killed together
                            // with the command, and then the descendants have to be killed, too.
                            let _ = self.supervisor.send(WatchdogEvent::Ended(status.into_raw()), &[]);
                        }
                    }
                },
                Ok(Some(_)) => {}
                Ok(None) => return Next::Watch,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // ECHILD: after a loss, all processes have ended within the grace time.
                Err(_) if self.kill_at.is_some() => return self.end(WatchdogEvent::Killed),
                Err(_) => return Next::Watch,
            }
        }
    }

    fn check_deadlines(&mut self) -> Next {
        if self.kill_at.is_none() && self.next_alarm().is_some_and(alarm::has_passed) {
            self.stop_command();
        }
        if self.kill_at.is_some_and(alarm::has_passed) {
            process_tree::kill_all(self.group);
            return self.end(WatchdogEvent::Killed);
        }
        Next::Watch
    }

    /// Gives all processes under the lock the grace time to stop, at most until the lease ends.
    /// Called when the lock is lost or about to be lost.
    fn stop_command(&mut self) {
        if self.kill_at.is_some() || self.ended {
            return;
        }
        let kill_at = alarm::from_now(self.grace);
        self.kill_at = Some(self.deadline.map_or(kill_at, |deadline| alarm::earlier(kill_at, deadline)));
        process_tree::signal_all(libc::SIGTERM, self.group);
        // A stopped process could not clean up.
        process_tree::signal_all(libc::SIGCONT, self.group);
    }

    /// Ends the watch after a loss: unlocks first, then reports `event`.
    fn end(&mut self, event: WatchdogEvent) -> Next {
        self.unlock();
        let _ = self.supervisor.send(event, &[]);
        Next::End
    }

    /// Unlocks explicitly: a plain close would notify the watchers of the file before the lock
    /// ends, and waiters would try too early.
    fn unlock(&mut self) {
        // In reverse, like every release.
        while let Some(lock) = self.locks.pop() {
            sys::unlock(lock.as_fd());
        }
    }
}
