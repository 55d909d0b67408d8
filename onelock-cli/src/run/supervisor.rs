//! The supervisor: acquires, renews and releases the lock, forwards signals, and exits as the
//! command does.

use std::{
    convert::Infallible, fmt::Display, future::pending, io, mem, os::unix::process::ExitStatusExt, process::ExitStatus,
    time::Duration,
};

use lock_core::{
    Guard, Lost,
    clock::{Clock, ClockReading, SystemClock},
};
use nix::{
    sys::prctl,
    unistd::{Pid, getsid},
};
use tokio::{io::unix::AsyncFd, time::Instant};

use super::{
    acquire::{self, WaitOutcome},
    alarm,
    child::Job,
    metrics::RunMetrics,
    orphans,
    plan::Plan,
    process_tree,
    protocol::{Channel, ToWatchdog, WatchdogEvent, next_event},
    signals::{ReceivedSignal, Signals},
};
use crate::{
    exit::{self, Exit, Failure},
    output::{fail, write_on_thread},
    runtime::{on_thread, runtime},
    sys,
};

/// How long the watchdog may be overdue before it counts as dead.
const WATCHDOG_TIMEOUT: Duration = Duration::from_secs(2);

/// What the kernel sends to the leader of a session whose terminal is closed.
const HANGUP: [i32; 2] = [libc::SIGHUP, libc::SIGCONT];

/// Runs the supervisor to its end.
pub(super) fn main(plan: &Plan, channel: Channel, watchdog: Pid) -> Result<Exit, Failure> {
    // If the watchdog dies, its descendants become children of this process.
    prctl::set_child_subreaper(true).map_err(|e| Failure::os("becoming a subreaper", e))?;
    write_on_thread();
    let runtime = runtime()?;
    let exit = runtime.block_on(async {
        let channel = sys::watch_reads(channel);
        let channel = channel.map_err(|e| Failure::os("watching the socket of the watchdog", e))?;
        let signals = Signals::all()?;
        tokio::spawn(orphans::reap(signals.child_ended(), watchdog));
        let mut metrics = plan.metrics_file.as_ref().map(|file| RunMetrics::new(file, &plan.wanted));
        let exit = acquire_and_supervise(plan, channel, signals, watchdog, &mut metrics).await;
        if let Some(metrics) = &metrics {
            metrics.ended(&exit).await;
        }
        exit
    });
    runtime.shutdown_background();
    sys::kill_and_reap(watchdog);
    exit
}

async fn acquire_and_supervise(
    plan: &Plan,
    channel: AsyncFd<Channel>,
    signals: Signals,
    watchdog: Pid,
    metrics: &mut Option<RunMetrics<'_>>,
) -> Result<Exit, Failure> {
    let guard = match acquire::acquire(&plan.wanted, &signals, pending::<Infallible>()).await? {
        WaitOutcome::Acquired(guard, _) => guard,
        WaitOutcome::Contended => return Ok(Exit::Code(plan.wanted.conflict_code)),
        WaitOutcome::Signal(signal) => return Ok(Exit::Signal(signal)),
        WaitOutcome::Abandoned(never) => match never {},
    };
    if let Some(metrics) = metrics {
        metrics.acquired().await;
    }
    let mut supervisor = Supervisor {
        job: &plan.job,
        channel,
        signals,
        watchdog,
        sent_deadline: None,
        lease: guard.valid_until().map(|until| until.since(SystemClock.now())),
        lost: None,
        stop_requested: false,
        stopped: None,
    };
    let ended = supervisor.supervise(&guard).await;
    supervisor.note_loss(&guard, matches!(ended, Ok(CommandEnd::Killed)));
    supervisor.send(ToWatchdog::Finish);
    if ended.is_err() {
        // The command may still run. The watchdog kills it before it ends, and only then may the
        // lock be released.
        supervisor.wait_for_watchdog_exit().await;
    }
    let released = guard.release().await;
    supervisor.wait_for_watchdog_exit().await;
    supervisor.exit(ended?, released)
}

struct Supervisor<'a> {
    job: &'a Job,
    channel: AsyncFd<Channel>,
    signals: Signals,
    watchdog: Pid,
    /// The end of the lease that the watchdog was told.
    sent_deadline: Option<ClockReading>,
    /// How long the lease lasts without a renewal.
    lease: Option<Duration>,
    /// The reason of the loss, and the time by which the watchdog has to finish.
    lost: Option<(Lost, Instant)>,
    /// Whether SIGTSTP was sent to this process, and not only to the command.
    stop_requested: bool,
    /// The command, once it was stopped.
    stopped: Option<Pid>,
}

/// The end of the command.
enum CommandEnd {
    Exited(ExitStatus),
    NotStarted(io::Error),
    /// The watchdog killed it, because the lock was lost.
    Killed,
    /// The supervisor killed it, because the watchdog died.
    Orphaned,
    /// The watchdog did not start it, because the lock had ended.
    TooLate,
}

impl Supervisor<'_> {
    async fn supervise(&mut self, guard: &Guard) -> Result<CommandEnd, Failure> {
        // Messages and metrics may have taken seconds since the lock was acquired.
        guard.check().map_err(not_started)?;
        let locks = guard.descriptors().map_err(|e| Failure::os("sharing the lock with the watchdog", e))?;
        self.sent_deadline = guard.valid_until();
        let start = ToWatchdog::Start { token: guard.token().map(|t| t.get()), deadline: self.sent_deadline };
        if self.channel.get_ref().send(start, &locks).is_err() {
            return Ok(self.kill_orphans().await);
        }
        // They are closed with the process. On a file system that hangs, a close waits, and this
        // thread has to forward signals.
        mem::forget(locks);
        loop {
            self.send_deadline(guard);
            let done_by = self.lost.as_ref().map(|(_, by)| *by);
            tokio::select! {
                biased;
                event = next_event(&self.channel) => if let Some(ended) = self.handle_event(event).await {
                    return Ok(ended);
                },
                signal = self.signals.next() => {
                    self.forward_signal(signal.map_err(|e| Failure::os("reading signals", e))?, guard);
                }
                lost = guard.lost(), if done_by.is_none() => {
                    let known = lost.reason.is_from_the_store();
                    self.lost = Some((lost, self.watchdog_limit(known)));
                    self.send(ToWatchdog::Lost { known });
                }
                () = guard.renewed(), if done_by.is_none() => {}
                () = tokio::time::sleep_until(done_by.unwrap_or_else(Instant::now)), if done_by.is_some() => {
                    return Ok(self.kill_orphans().await);
                }
            }
        }
    }

    /// The time by which the watchdog must have ended the command, if the lock was lost now. There
    /// is no grace time if the store is `known` to have lost the lock. A watchdog that hangs gets
    /// no time beyond the end of the lease.
    fn watchdog_limit(&self, known: bool) -> Instant {
        let now = Instant::now();
        let grace = if known { Duration::ZERO } else { self.job.grace(self.lease) };
        let overdue = now + grace + WATCHDOG_TIMEOUT;
        let lease_end = self.sent_deadline.map(|deadline| now + alarm::until(deadline));
        lease_end.map_or(overdue, |end| end.min(overdue))
    }

    /// Notes a loss that no event reported: if all processes were frozen, the command may have run
    /// past the end of the lease, and its end is the first event. The watchdog `killed` a command
    /// the grace time before the loss, and its reason is that of the loss.
    fn note_loss(&mut self, guard: &Guard, killed: bool) {
        let ahead = if killed { self.job.grace(self.lease) } else { Duration::ZERO };
        if let Some(lost) = guard.check_within(ahead).err().filter(|_| self.lost.is_none()) {
            self.lost = Some((lost, Instant::now()));
        }
    }

    /// Tells the watchdog the new end of the lease. Called in every round, because `renewed` misses
    /// a renewal between two waits.
    fn send_deadline(&mut self, guard: &Guard) {
        let until = guard.valid_until();
        if let Some(until) = until.filter(|_| until != self.sent_deadline && self.lost.is_none()) {
            self.send(ToWatchdog::Deadline(until));
            self.sent_deadline = Some(until);
        }
    }

    /// Sends a message and ignores a failure: then the watchdog is dead, which the channel reports,
    /// or it hangs. The command is killed in both cases.
    fn send(&self, message: ToWatchdog) {
        let _ = self.channel.get_ref().send(message, &[]);
    }

    async fn handle_event(&mut self, event: io::Result<Option<WatchdogEvent>>) -> Option<CommandEnd> {
        match event {
            Ok(Some(WatchdogEvent::Started)) => {
                self.job.inherited.close_command_descriptors(true);
                None
            }
            Ok(Some(WatchdogEvent::Stopped { signal, pid })) => {
                self.stop_with_command(signal, Pid::from_raw(pid));
                None
            }
            Ok(Some(WatchdogEvent::NotStarted(errno))) => {
                Some(CommandEnd::NotStarted(io::Error::from_raw_os_error(errno)))
            }
            Ok(Some(WatchdogEvent::Ended(status))) => Some(CommandEnd::Exited(ExitStatus::from_raw(status))),
            Ok(Some(WatchdogEvent::Killed)) => Some(CommandEnd::Killed),
            Ok(Some(WatchdogEvent::TooLate)) => Some(CommandEnd::TooLate),
            Ok(None) | Err(_) => Some(self.kill_orphans().await),
        }
    }

    /// Stops this process if the command was stopped from the terminal or by a forwarded signal, so
    /// that the caller sees a stopped job.
    fn stop_with_command(&mut self, signal: i32, command: Pid) {
        self.stopped = Some(command);
        // The event may be outdated: with Ctrl-Z right after `fg` this process was stopped and
        // continued before it read the event.
        if !process_tree::is_stopped(command) {
            return;
        }
        if !self.job.own_group {
            sys::deliver_to_self(signal);
        } else if std::mem::take(&mut self.stop_requested) {
            // SIGTSTP has no effect in a process group that no shell manages.
            sys::deliver_to_self(libc::SIGSTOP);
        }
    }

    fn forward_signal(&mut self, signal: ReceivedSignal, guard: &Guard) {
        // A terminal that is closed tells the session's leader only.
        let to_leader = HANGUP.contains(&signal.number) && getsid(None) == Ok(Pid::this());
        let by_terminal = signal.by_terminal && !to_leader;
        // The command is in the same foreground job and has received the signal, too.
        let already_delivered = !self.job.own_group && (by_terminal || self.is_continued_by_shell(signal));
        // The lock may have been lost while this process was stopped. Then the command may continue
        // only to be ended.
        let must_not_continue = signal.number == libc::SIGCONT && guard.check().is_err();
        if signal.number == libc::SIGCHLD || already_delivered || must_not_continue {
            return;
        }
        self.stop_requested |= signal.number == libc::SIGTSTP;
        self.send(ToWatchdog::Signal(signal.number));
    }

    /// Whether a shell has continued the whole job, and so the command too. Forwarded late, the
    /// signal would undo the next Ctrl-Z: for the command, but not for its children.
    fn is_continued_by_shell(&self, signal: ReceivedSignal) -> bool {
        let runs_or_stops_again = |command| !process_tree::is_stopped(command) || sys::is_pending(libc::SIGTSTP);
        signal.number == libc::SIGCONT && self.stopped.is_some_and(runs_or_stops_again)
    }

    /// Kills a dead or hanging watchdog and all processes that it watched.
    async fn kill_orphans(&self) -> CommandEnd {
        let _ = sys::kill(self.watchdog, libc::SIGKILL);
        // In a thread, because the lock must be renewed until the last process is dead.
        if on_thread(|| process_tree::kill_all(None)).await.is_err() {
            // Without a thread the lock is not renewed meanwhile, but no process may stay.
            process_tree::kill_all(None);
        }
        if self.lost.is_some() { CommandEnd::Killed } else { CommandEnd::Orphaned }
    }

    /// Waits for the end of the watchdog. Until then the lock may not be free, and the exit of this
    /// process says that it is.
    async fn wait_for_watchdog_exit(&self) {
        let gone = async { while let Ok(Some(_)) = next_event(&self.channel).await {} };
        if tokio::time::timeout(WATCHDOG_TIMEOUT, gone).await.is_err() {
            let _ = sys::kill(self.watchdog, libc::SIGKILL);
        }
    }

    fn exit(
        self,
        ended: CommandEnd,
        released: Result<lock_core::backend::Release, lock_core::Error>,
    ) -> Result<Exit, Failure> {
        let lost = self.lost.map(|(lost, _)| lost.to_string());
        let about_to_end = || format!("the lock \"{}\" was lost: its lease was about to end", self.job.name);
        match ended {
            CommandEnd::NotStarted(error) => Err(Failure::spawn(&self.job.argv[0], &error)),
            CommandEnd::Orphaned => Err(Failure::new(exit::OS, "the watchdog process died, so the command was killed")),
            CommandEnd::TooLate => Err(not_started(lost.unwrap_or_else(about_to_end))),
            CommandEnd::Killed => {
                let lost = lost.unwrap_or_else(about_to_end);
                Err(Failure::new(exit::LOST, format!("{lost}; the command was stopped")))
            }
            CommandEnd::Exited(status) => {
                if let Some(lost) = lost {
                    return Err(Failure::new(exit::LOST, lost));
                }
                match released {
                    Ok(lock_core::backend::Release::Released) => {}
                    Ok(lock_core::backend::Release::NotHeld(_)) => {
                        let message = format!("the lock \"{}\" was lost before the command ended", self.job.name);
                        return Err(Failure::new(exit::LOST, message));
                    }
                    // The command has done its work, and the lock expires with its lease.
                    Err(error) => fail(&Failure::from(error).to_string(), None),
                }
                Ok(exit_like(status, self.job.own_group))
            }
        }
    }
}

pub(super) fn not_started(lost: impl Display) -> Failure {
    Failure::new(exit::LOST, format!("{lost}; the command was not started"))
}

fn exit_like(status: ExitStatus, own_group: bool) -> Exit {
    match (status.code(), status.signal()) {
        // On Ctrl-C a shell ends its script or loop only if its child died of SIGINT.
        (_, Some(libc::SIGINT)) if !own_group => Exit::Signal(libc::SIGINT),
        (Some(code), _) => Exit::Code(code as u8),
        (None, signal) => Exit::Code(128_u8.wrapping_add(signal.unwrap_or(0) as u8)),
    }
}
