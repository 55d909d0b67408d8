//! The watchdog: the parent of the command, in a process of its own, so that the command ends
//! before the lock does, whatever happens to the process that holds the lock.
//!
//! It shares the lock's descriptor, where the lock lives in one: then the kernel frees the lock
//! after the watchdog has let go of it. It knows when the lease ends, where there is one, and needs
//! nobody to tell it that the time has come. It uses no runtime and no thread.

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
    // Orphans of the command become ours, not init's: nothing gets away.
    let code = match prctl::set_child_subreaper(true).and_then(|()| wait_for_start(supervisor, job)) {
        Ok(()) => 0,
        Err(_) => i32::from(exit::OS),
    };
    sys::exit_now(code)
}

fn wait_for_start(supervisor: Channel, job: &Job) -> nix::Result<()> {
    match supervisor.receive()? {
        Some((ToWatchdog::Start { token, deadline }, lock)) => start(supervisor, job, token, deadline, lock),
        // The supervisor went before it had the lock, or sent what makes no sense without one.
        _ => Ok(()),
    }
}

fn start(
    supervisor: Channel,
    job: &Job,
    token: Option<u64>,
    deadline: Option<ClockReading>,
    lock: Option<OwnedFd>,
) -> nix::Result<()> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    let children = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let alarm = Alarm::new()?;
    // Not after the command has begun: it and all of its group may be killed at once, and then
    // somebody has to be left to clean up.
    let command = match job.spawn(token, deadline, || leave_process_group(job)) {
        Ok(command) => command,
        Err(error) => {
            drop(lock);
            return supervisor.send(WatchdogEvent::NotStarted(error.raw_os_error().unwrap_or(libc::EINVAL)), None);
        }
    };
    job.inherited.close_command_descriptors(false);
    let lease = deadline.map(|at| at.since(SystemClock.now()));
    let grace = job.grace(lease);
    let group = job.own_group.then_some(command);
    let watchdog =
        Watchdog { supervisor, children, alarm, lock, command, group, grace, deadline, kill_at: None, ended: false };
    // If the supervisor is gone by now, the loop sees that.
    let _ = watchdog.supervisor.send(WatchdogEvent::Started, None);
    watchdog.watch()
}

/// Out of the reach of signals to the job's process group: SIGKILL to that group must leave
/// somebody to clean up.
fn leave_process_group(job: &Job) {
    let _ = if job.own_group {
        // Staying in the session keeps the command's group from being an orphaned one, in which
        // SIGTSTP has no effect.
        setpgid(Pid::from_raw(0), Pid::from_raw(0))
    } else {
        // Leaving the session, because as a parent in another group of it we would keep a group
        // from being an orphaned one that should be, and Ctrl-Z would stop a job that nobody can
        // continue.
        setsid().map(drop)
    };
}

struct Watchdog {
    supervisor: Channel,
    children: SignalFd,
    alarm: Alarm,
    lock: Option<OwnedFd>,
    command: Pid,
    /// The command's own process group, until the command is reaped.
    group: Option<Pid>,
    grace: Duration,
    /// When the lease ends.
    deadline: Option<ClockReading>,
    /// The command was told to stop, and will be killed then.
    kill_at: Option<ClockReading>,
    /// The command has ended.
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

    /// Sleeps until something happens; whether that came from the supervisor.
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
        // What the command left behind when it ended by itself is nobody's business.
        let deadline = self.deadline.filter(|_| !self.ended);
        self.kill_at.or_else(|| deadline.map(|at| alarm::before(at, self.grace)))
    }

    /// One message from the supervisor.
    fn handle_message(&mut self) -> Next {
        match self.supervisor.receive() {
            Ok(Some((ToWatchdog::Signal(signal), _))) if !self.ended => {
                let _ = match self.group {
                    Some(group) => sys::kill_group(group, signal),
                    None => sys::kill(self.command, signal),
                };
            }
            Ok(Some((ToWatchdog::Deadline(at), _))) => self.deadline = Some(at),
            Ok(Some((ToWatchdog::Lost, _))) => self.stop_command(),
            Ok(Some((ToWatchdog::Finish, _))) if self.ended => return Next::End,
            Ok(Some((ToWatchdog::Signal(_) | ToWatchdog::Start { .. }, _))) | Err(Errno::EINTR) => {}
            // The supervisor died or failed: nobody renews or releases the lock any more.
            Ok(Some((ToWatchdog::Finish, _)) | None) | Err(_) => {
                process_tree::kill_all(self.group);
                self.unlock();
                return Next::End;
            }
        }
        Next::Watch
    }

    fn reap_children(&mut self) -> Next {
        while let Ok(Some(_)) = self.children.read_signal() {}
        loop {
            match sys::next_change() {
                Ok(Some((pid, status))) if pid == self.command => match status.stopped_signal() {
                    Some(signal) => {
                        let _ = self.supervisor.send(WatchdogEvent::Stopped { signal, pid: pid.as_raw() }, None);
                    }
                    None => {
                        self.ended = true;
                        self.group = None;
                        if self.kill_at.is_none() {
                            // Not the end yet: whoever killed the command may have killed the
                            // supervisor in the same moment, and then the offspring has to go, too.
                            let _ = self.supervisor.send(WatchdogEvent::Ended(status.into_raw()), None);
                        }
                    }
                },
                Ok(Some(_)) => {}
                Ok(None) => return Next::Watch,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // ECHILD: after a loss, everybody has stopped within the grace time.
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

    /// The lock is lost, or about to be: all that runs under it gets the grace time to stop, but
    /// never more than the lease lasts.
    fn stop_command(&mut self) {
        if self.kill_at.is_some() || self.ended {
            return;
        }
        let kill_at = alarm::from_now(self.grace);
        self.kill_at = Some(self.deadline.map_or(kill_at, |deadline| alarm::earlier(kill_at, deadline)));
        process_tree::signal_all(libc::SIGTERM, self.group);
        // What is stopped could not clean up.
        process_tree::signal_all(libc::SIGCONT, self.group);
    }

    /// After a loss: lets go of the lock, then says so.
    fn end(&mut self, event: WatchdogEvent) -> Next {
        self.unlock();
        let _ = self.supervisor.send(event, None);
        Next::End
    }

    /// Not by closing alone: a file's watchers hear of the close before its lock ends, and would
    /// come too early.
    fn unlock(&mut self) {
        if let Some(lock) = self.lock.take() {
            sys::unlock(lock.as_fd());
        }
    }
}
