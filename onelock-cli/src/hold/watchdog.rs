//! The watchdog of a shell's lock: a separate process, so that the client ends before the lock
//! does, even if `onelock hold` is killed or frozen.
//!
//! It shares the lock's descriptors, if the lock lives in some, and knows the end of the lease. It
//! uses no runtime and no thread.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use lock_core::clock::{Clock, ClockReading, SystemClock};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::prctl,
    unistd::setsid,
};

use super::client::Client;
use crate::{
    args::OnLoss,
    exit,
    run::{
        alarm::{self, Alarm},
        child::default_grace,
        inherited::InheritedState,
        process_tree::{self, Family},
        protocol::{Channel, ToWatchdog, WatchdogEvent},
    },
    sys,
};

/// What the watchdog has to know before there is a lock.
#[derive(Debug)]
pub(super) struct Duty<'a> {
    pub(super) client: &'a Client,
    pub(super) on_loss: OnLoss,
    pub(super) grace: Option<Duration>,
}

impl Duty<'_> {
    /// Returns the time between SIGTERM and SIGKILL, for a lease that lasts for `lease`.
    pub(super) fn grace(&self, lease: Option<Duration>) -> Duration {
        match self.on_loss {
            OnLoss::Kill => Duration::ZERO,
            OnLoss::Term | OnLoss::Tell => self.grace.unwrap_or_else(|| default_grace(lease)),
        }
    }
}

/// Runs the watchdog to its end, in the process that was forked for it.
pub(super) fn main(holder: Channel, duty: &Duty<'_>, inherited: &InheritedState) -> ! {
    let _ = prctl::set_name(c"lock-watchdog");
    // A signal to the process group must leave a process that ends the client.
    let _ = setsid();
    // The client waits for the end of the output of `onelock hold`.
    inherited.close_command_descriptors(false);
    let code = match wait_for_lock(holder, duty) {
        Ok(()) => 0,
        Err(_) => i32::from(exit::OS),
    };
    sys::exit_now(code)
}

fn wait_for_lock(holder: Channel, duty: &Duty<'_>) -> nix::Result<()> {
    // Without the lock there is nothing to watch.
    let Some((ToWatchdog::Start { deadline, .. }, locks)) = holder.receive()? else { return Ok(()) };
    // This process may have been frozen since the message was sent. The client knows of no lock.
    if deadline.is_some_and(alarm::has_passed) {
        return holder.send(WatchdogEvent::TooLate, &[]);
    }
    let lease = deadline.map(|at| at.since(SystemClock.now()));
    // All that may fail comes before the client is told of the lock.
    let alarm = Alarm::new()?;
    holder.send(WatchdogEvent::Started, &[])?;
    let watchdog = Watchdog {
        holder: Some(holder),
        client: duty.client,
        family: Family::default(),
        abandoned: false,
        alarm,
        locks,
        grace: duty.grace(lease),
        terminates: duty.on_loss == OnLoss::Term,
        deadline,
        kill_at: None,
    };
    watchdog.watch()
}

struct Watchdog<'a> {
    /// `None` once `onelock hold` has ended without a word.
    holder: Option<Channel>,
    client: &'a Client,
    /// The descendants of the client, once it was asked to end.
    family: Family,
    /// Whether the client has ended or given up the lock, which then lasts until its family ends.
    abandoned: bool,
    alarm: Alarm,
    locks: Vec<OwnedFd>,
    grace: Duration,
    /// Whether SIGTERM comes before SIGKILL.
    terminates: bool,
    /// The end of the lease.
    deadline: Option<ClockReading>,
    /// When to kill the client, which has been asked to end.
    kill_at: Option<ClockReading>,
}

/// Whether the watch goes on.
enum Next {
    Watch,
    End,
}

impl Watchdog<'_> {
    fn watch(mut self) -> nix::Result<()> {
        loop {
            self.alarm.set(self.next_alarm())?;
            let ready = self.wait()?;
            if ready.holder
                && let Next::End = self.handle_message()
            {
                return Ok(());
            }
            if ready.gone {
                return self.end();
            }
            if self.kill_at.is_none() && self.next_alarm().is_some_and(alarm::has_passed) {
                self.stop_client();
            }
            if self.kill_at.is_some_and(alarm::has_passed) {
                if self.abandoned {
                    self.client.kill_family(&self.family);
                } else {
                    self.client.kill(&self.family);
                }
                return self.end();
            }
        }
    }

    fn wait(&self) -> nix::Result<Ready> {
        let [boot, wall] = self.alarm.descriptors();
        // Before its end was asked for, `onelock hold` itself sees the end of the client.
        let living = self.kill_at.and_then(|_| self.living());
        if self.kill_at.is_some() && living.is_none() {
            return Ok(Ready { gone: true, holder: false });
        }
        let holder = self.holder.as_ref().map(AsFd::as_fd);
        let mut sources: Vec<_> = [Some(boot), Some(wall), living, holder]
            .into_iter()
            .flatten()
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        match poll(&mut sources, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let holder = holder.is_some() && sources.last().is_some_and(|source| source.any().unwrap_or(true));
        Ok(Ready { gone: false, holder })
    }

    /// Returns a process that the lock has to outlast.
    fn living(&self) -> Option<BorrowedFd<'_>> {
        let client = self.client.handle().filter(|client| !self.abandoned && !process_tree::has_ended(*client));
        client.or_else(|| self.family.living().map(|(_, handle)| handle).next())
    }

    fn next_alarm(&self) -> Option<ClockReading> {
        self.kill_at.or_else(|| self.deadline.map(|at| alarm::before(at, self.grace)))
    }

    fn handle_message(&mut self) -> Next {
        let message = self.holder.as_ref().map(|holder| holder.receive::<ToWatchdog>());
        match message {
            Some(Ok(Some((ToWatchdog::Deadline(at), _)))) => self.deadline = Some(at),
            // Another client may hold the lock already.
            Some(Ok(Some((ToWatchdog::Lost { known: true }, _)))) => {
                self.kill_at = Some(alarm::from_now(Duration::ZERO));
            }
            Some(Ok(Some((ToWatchdog::Lost { known: false }, _)))) => self.stop_client(),
            Some(Ok(Some((ToWatchdog::Finish, _)))) if self.kill_at.is_none() => return Next::End,
            Some(Ok(Some((ToWatchdog::Finish, _)))) => self.abandoned = true,
            Some(Ok(Some((ToWatchdog::Signal(_) | ToWatchdog::Start { .. }, _))) | Err(Errno::EINTR)) | None => {}
            // `onelock hold` was killed, so no process renews or releases the lock any more.
            Some(Ok(None) | Err(_)) => {
                self.holder = None;
                self.stop_client();
            }
        }
        Next::Watch
    }

    /// Gives the client the grace time to end, at most until the lease ends.
    fn stop_client(&mut self) {
        if self.kill_at.is_some() {
            return;
        }
        let kill_at = alarm::from_now(self.grace);
        self.kill_at = Some(self.deadline.map_or(kill_at, |deadline| alarm::earlier(kill_at, deadline)));
        if self.terminates {
            self.family = self.client.terminate();
        }
    }

    /// Ends the watch after the client and its family: unlocks first, then reports.
    fn end(mut self) -> nix::Result<()> {
        // Before the end of its lock, `onelock hold` releases it itself. If the watchdog unlocked
        // it before, the lock could have another holder by then, and the release would change the
        // record of that holder.
        let releases = self.holder.is_some() && !self.deadline.is_some_and(alarm::has_passed);
        if !releases {
            // In reverse, like every release.
            while let Some(lock) = self.locks.pop() {
                sys::unlock(lock.as_fd());
            }
        }
        if let Some(holder) = &self.holder {
            let _ = holder.send(WatchdogEvent::Killed, &[]);
        }
        Ok(())
    }
}

/// What has happened.
struct Ready {
    /// Whether no process is left that the lock has to outlast, after the client was asked to end.
    gone: bool,
    /// Whether `onelock hold` has sent a message, or has ended.
    holder: bool,
}
