//! The front: gets the lock, keeps it and releases it, passes signals on, and ends as the command ends.

use std::{
    io,
    os::{fd::AsFd, unix::process::ExitStatusExt},
    process::ExitStatus,
    time::Duration,
};

use lock_core::{
    Guard, Lost,
    clock::Moment,
    clock::{Clock, SystemClock},
};
use nix::{errno::Errno, sys::prctl, unistd::Pid};
use tokio::{io::unix::AsyncFd, time::Instant};

use super::{
    child::Job,
    exit::{self, Exit, Failure},
    protocol::{Channel, Order, Report},
    run::{self, Plan},
    signals::{Received, Signals},
    tree,
    waiting::{self, Waited},
};
use crate::sys;

/// How long after its time the watchdog may be silent before it is taken for dead.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs the front to its end.
pub(super) fn main(plan: &Plan, channel: Channel, watchdog: Pid) -> Result<Exit, Failure> {
    // When the watchdog dies, what it watched becomes ours.
    prctl::set_child_subreaper(true).map_err(|e| Failure::os("becoming a subreaper", e))?;
    let runtime = run::runtime()?;
    let exit = runtime.block_on(async {
        let channel = sys::watch_reads(channel);
        let channel = channel.map_err(|e| Failure::os("watching the watchdog", e))?;
        let signals = Signals::all()?;
        hold(plan, channel, signals, watchdog).await
    });
    runtime.shutdown_background();
    sys::see_off(watchdog);
    exit
}

async fn hold(plan: &Plan, channel: AsyncFd<Channel>, signals: Signals, watchdog: Pid) -> Result<Exit, Failure> {
    let guard = match waiting::acquire(plan, &signals).await? {
        Waited::Acquired(guard, _) => guard,
        Waited::Held => return Ok(Exit::Code(plan.conflict_code)),
        Waited::Signal(signal) => return Ok(Exit::Signal(signal)),
    };
    let mut front = Front {
        job: &plan.job,
        channel,
        signals,
        watchdog,
        sent: guard.valid_until(),
        lease: guard.valid_until().map(|until| until.since(SystemClock.now())),
        lost: None,
        stop_asked: false,
    };
    let ended = front.supervise(&guard).await;
    front.note_loss(&guard);
    front.send(Order::Goodbye);
    if ended.is_err() {
        // The command may still run, and the watchdog kills it before it goes; only then may the lock be free.
        front.see_off_the_watchdog().await;
    }
    let released = guard.release().await;
    front.see_off_the_watchdog().await;
    front.exit(ended?, released)
}

struct Front<'a> {
    job: &'a Job,
    channel: AsyncFd<Channel>,
    signals: Signals,
    watchdog: Pid,
    /// The end of the lease that the watchdog knows of.
    sent: Option<Moment>,
    /// How long the lease lasts without a renewal.
    lease: Option<Duration>,
    /// Why the lock was lost, and when the watchdog has to be done.
    lost: Option<(Lost, Instant)>,
    /// SIGTSTP was sent to us, not only to the command.
    stop_asked: bool,
}

/// What became of the command.
enum Ended {
    Exited(ExitStatus),
    NotStarted(io::Error),
    /// It was killed, because the lock was lost.
    Killed,
    /// It was killed, because the watchdog died.
    Orphaned,
}

impl Front<'_> {
    async fn supervise(&mut self, guard: &Guard) -> Result<Ended, Failure> {
        let lock = guard.descriptor();
        if lock.is_none() && self.sent.is_none() {
            let message =
                "the lock's descriptor could not be shared with the watchdog; is the limit of open files reached?";
            return Err(Failure::new(exit::OS, message));
        }
        let start = Order::Start { token: guard.token().map(|t| t.get()), deadline: self.sent };
        if self.channel.get_ref().send(start, lock.as_ref().map(AsFd::as_fd)).is_err() {
            return Ok(self.kill_orphans().await);
        }
        drop(lock);
        loop {
            self.tell_deadline(guard);
            let done_by = self.lost.as_ref().map(|(_, by)| *by);
            tokio::select! {
                biased;
                report = report(&self.channel) => if let Some(ended) = self.heed(report).await {
                    return Ok(ended);
                },
                signal = self.signals.next() => {
                    self.pass_on(signal.map_err(|e| Failure::os("reading signals", e))?, guard);
                }
                lost = guard.lost(), if done_by.is_none() => {
                    self.lost = Some((lost, Instant::now() + self.job.grace(self.lease) + PATIENCE));
                    self.send(Order::Lost);
                }
                () = guard.renewed(), if done_by.is_none() => {}
                () = tokio::time::sleep_until(done_by.unwrap_or_else(Instant::now)), if done_by.is_some() => {
                    return Ok(self.kill_orphans().await);
                }
            }
        }
    }

    /// The command may have gone on past the end of the lease while all of us were frozen: its end is the first that we hear of.
    fn note_loss(&mut self, guard: &Guard) {
        if let Some(lost) = guard.check().err().filter(|_| self.lost.is_none()) {
            self.lost = Some((lost, Instant::now()));
        }
    }

    /// Tells the watchdog when the lease ends now. Not only when `renewed` returns: a renewal between two waits would be missed.
    fn tell_deadline(&mut self, guard: &Guard) {
        let until = guard.valid_until();
        if let Some(until) = until.filter(|_| until != self.sent && self.lost.is_none()) {
            self.send(Order::Deadline(until));
            self.sent = Some(until);
        }
    }

    /// An order that cannot be sent finds a watchdog that is dead, which its channel tells, or one that hangs, with the same end.
    fn send(&self, order: Order) {
        let _ = self.channel.get_ref().send(order, None);
    }

    async fn heed(&mut self, report: io::Result<Option<Report>>) -> Option<Ended> {
        match report {
            Ok(Some(Report::Started)) => {
                self.job.inherited.let_go(true);
                None
            }
            Ok(Some(Report::Stopped { signal, pid })) => {
                self.stop_too(signal, Pid::from_raw(pid));
                None
            }
            Ok(Some(Report::NotStarted(errno))) => Some(Ended::NotStarted(io::Error::from_raw_os_error(errno))),
            Ok(Some(Report::Ended(status))) => Some(Ended::Exited(ExitStatus::from_raw(status))),
            Ok(Some(Report::Killed)) => Some(Ended::Killed),
            Ok(None) | Err(_) => Some(self.kill_orphans().await),
        }
    }

    /// Whoever started us sees a stopped job when the command was stopped from the terminal, or by a signal that went through us.
    fn stop_too(&mut self, signal: i32, command: Pid) {
        // The report may be of a stop that is over: with Ctrl-Z right after `fg` we were stopped, and continued, before we read it.
        if !tree::is_stopped(command) {
            return;
        }
        if !self.job.own_group {
            sys::act_on(signal);
        } else if std::mem::take(&mut self.stop_asked) {
            // SIGTSTP would have no effect in a process group that no shell manages.
            sys::act_on(libc::SIGSTOP);
        }
    }

    fn pass_on(&mut self, signal: Received, guard: &Guard) {
        // The command is in the same foreground job and has got it, too.
        let has_it = signal.by_terminal && !self.job.own_group;
        // While we were stopped the lock may have been lost: then nothing may be continued, but for its end.
        let must_not = signal.number == libc::SIGCONT && guard.check().is_err();
        if signal.number == libc::SIGCHLD || has_it || must_not {
            return;
        }
        self.stop_asked |= signal.number == libc::SIGTSTP;
        self.send(Order::Signal(signal.number));
    }

    /// The watchdog is dead, or as good as: kills it and all that it watched.
    async fn kill_orphans(&self) -> Ended {
        let _ = sys::kill(self.watchdog, libc::SIGKILL);
        // In a thread, because renewals go on until the last process is dead.
        let _ = tokio::task::spawn_blocking(|| tree::kill_all(None)).await;
        if self.lost.is_some() { Ended::Killed } else { Ended::Orphaned }
    }

    /// Until the watchdog has let go of the lock, the lock is not free; our exit says that it is.
    async fn see_off_the_watchdog(&self) {
        let gone = async { while let Ok(Some(_)) = report(&self.channel).await {} };
        if tokio::time::timeout(PATIENCE, gone).await.is_err() {
            let _ = sys::kill(self.watchdog, libc::SIGKILL);
        }
    }

    fn exit(
        self,
        ended: Ended,
        released: Result<lock_core::backend::Release, lock_core::Error>,
    ) -> Result<Exit, Failure> {
        let lost = self.lost.map(|(lost, _)| lost.to_string());
        match ended {
            Ended::NotStarted(error) => Err(Failure::spawn(&self.job.argv[0], error)),
            Ended::Orphaned => Err(Failure::new(exit::OS, "the watchdog process died, so the command was killed")),
            Ended::Killed => {
                let lost = lost
                    .unwrap_or_else(|| format!("the lock \"{}\" was lost: its lease was about to end", self.job.name));
                Err(Failure::new(exit::LOST, format!("{lost}; the command was stopped")))
            }
            Ended::Exited(status) => {
                if let Some(lost) = lost {
                    return Err(Failure::new(exit::LOST, lost));
                }
                match released {
                    Ok(lock_core::backend::Release::Released) => {}
                    Ok(lock_core::backend::Release::NotHeld(_)) => {
                        let message = format!("the lock \"{}\" was lost before the command ended", self.job.name);
                        return Err(Failure::new(exit::LOST, message));
                    }
                    // The command has done its work; the lock will end with its lease.
                    Err(error) => waiting::say(&format!("onelock: {}\n", Failure::from(error))),
                }
                Ok(exit_like(status, self.job.own_group))
            }
        }
    }
}

async fn report(channel: &AsyncFd<Channel>) -> io::Result<Option<Report>> {
    loop {
        let mut ready = channel.readable().await?;
        match ready.get_inner().receive() {
            Err(Errno::EAGAIN) => ready.clear_ready(),
            received => return Ok(received?.map(|(report, _)| report)),
        }
    }
}

fn exit_like(status: ExitStatus, own_group: bool) -> Exit {
    match (status.code(), status.signal()) {
        // A shell stops its script or loop on Ctrl-C only when it sees its child die of it.
        (_, Some(libc::SIGINT)) if !own_group => Exit::Signal(libc::SIGINT),
        (Some(code), _) => Exit::Code(code as u8),
        (None, signal) => Exit::Code(128_u8.wrapping_add(signal.unwrap_or(0) as u8)),
    }
}
