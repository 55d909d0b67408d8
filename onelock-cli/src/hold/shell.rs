//! The form for shells: one lock, held until the standard input ends.

use std::{ffi::OsStr, fmt::Display, future::pending, io::IsTerminal as _, time::Duration};

use lock_core::{
    Guard, LockName, Lost,
    backend::Release,
    clock::{Clock, ClockReading, SystemClock},
};
use nix::unistd::Pid;
use tokio::{io::unix::AsyncFd, sync::oneshot, time::timeout};

use super::{
    client::{Client, ClientWatch},
    descriptors,
    watchdog::{self, Duty},
};
use crate::{
    args::{LockArgs, OnLoss},
    exit::{self, Exit, Failure},
    output::{fail, print, write_on_thread},
    run::{
        acquire::{self, WaitOutcome},
        inherited::InheritedState,
        plan::Wanted,
        process_tree::Family,
        protocol::{Channel, ToWatchdog, WatchdogEvent, next_event},
        signals::Signals,
    },
    runtime::{on_thread, runtime},
    sys,
    who::Who,
};

/// How long the watchdog may be overdue before it counts as dead.
const WATCHDOG_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the client may take to read the line that tells of a loss.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Holds one lock for the client.
pub(super) fn run(name: LockName, args: LockArgs, on_loss: OnLoss, inherited: InheritedState) -> Result<Exit, Failure> {
    let client = Client::find(on_loss)?;
    let wanted = Wanted::new(name, args, &Who::this_process(OsStr::new("onelock hold")))?;
    let duty = Duty { client: &client, on_loss, grace: wanted.grace };
    let watchdog = if on_loss == OnLoss::Tell { None } else { Some(fork_watchdog(&duty, &inherited)?) };
    let pid = watchdog.as_ref().map(|(_, pid)| *pid);
    // A signal that a terminal sends reaches the client too, unless the client is the user's shell.
    let ignores_terminal = !std::io::stdin().is_terminal();
    write_on_thread();
    let runtime = runtime()?;
    let exit = runtime.block_on(async {
        let ended = client.watch()?;
        let signals = Signals::all()?;
        let input = descriptors::watch_end(descriptors::take_stdin()?)?;
        let mut waiting = Waiting { ended, input };
        let guard = match acquire::acquire(&wanted, &signals, waiting.abandoned()).await? {
            WaitOutcome::Acquired(guard, _) => guard,
            WaitOutcome::Contended => return Ok(Exit::Code(wanted.conflict_code)),
            WaitOutcome::Signal(signal) => return Ok(Exit::Signal(signal)),
            WaitOutcome::Abandoned(Abandoned::ClientEnded) => return Ok(Exit::Code(exit::NOT_ACQUIRED)),
            WaitOutcome::Abandoned(Abandoned::InputEnded) => return Err(no_input(&wanted.shown)),
        };
        let watchdog = match watchdog {
            Some((channel, _)) => {
                Some(sys::watch_reads(channel).map_err(|e| Failure::os("watching the socket of the watchdog", e))?)
            }
            None => None,
        };
        Holder { name: &wanted.shown, duty: &duty, waiting, signals, ignores_terminal, watchdog, sent: None }
            .hold(guard)
            .await
    });
    runtime.shutdown_background();
    if let Some(pid) = pid {
        sys::kill_and_reap(pid);
    }
    exit
}

/// Starts the watchdog. Must be called before any thread starts: a fork of a process with threads
/// may call only async-signal-safe functions.
fn fork_watchdog(duty: &Duty<'_>, inherited: &InheritedState) -> Result<(Channel, Pid), Failure> {
    let (to_watchdog, to_holder) = Channel::pair().map_err(|e| Failure::os("creating a socket pair", e))?;
    match sys::fork().map_err(|e| Failure::start("the watchdog process", &e))? {
        None => {
            drop(to_watchdog);
            watchdog::main(to_holder, duty, inherited)
        }
        Some(pid) => Ok((to_watchdog, pid)),
    }
}

fn no_input(name: &LockName) -> Failure {
    let message = format!(
        "the standard input ended before the lock \"{name}\" was acquired; keep it open for as long as the lock shall \
         be held, as a coproc of bash does"
    );
    Failure::new(exit::USAGE, message)
}

/// The two ends for which the lock is not needed any more.
struct Waiting {
    ended: ClientWatch,
    input: oneshot::Receiver<()>,
}

enum Abandoned {
    ClientEnded,
    InputEnded,
}

impl Waiting {
    async fn abandoned(&mut self) -> Abandoned {
        tokio::select! {
            biased;
            () = self.ended.ended() => Abandoned::ClientEnded,
            _ = &mut self.input => Abandoned::InputEnded,
        }
    }
}

/// The reason why the lock is held no longer.
enum End {
    /// The client does not need it.
    Abandoned,
    Signal(i32),
    Lost(Lost),
    /// The watchdog ended the client, because the lock was lost.
    Killed,
    WatchdogDied,
}

struct Holder<'a> {
    name: &'a LockName,
    duty: &'a Duty<'a>,
    waiting: Waiting,
    signals: Signals,
    ignores_terminal: bool,
    /// There is none if a loss is only told.
    watchdog: Option<AsyncFd<Channel>>,
    /// The end of the lease that the watchdog was told.
    sent: Option<ClockReading>,
}

impl Holder<'_> {
    async fn hold(mut self, guard: Guard) -> Result<Exit, Failure> {
        let started = self.start_watch(&guard).await;
        // This process may have been frozen since the lock was acquired.
        let ended = match started.and_then(|()| guard.check().map_err(not_told)) {
            Ok(()) => self.serve(&guard).await,
            Err(failure) => Err(failure),
        };
        self.send(ToWatchdog::Finish);
        self.wait_for_watchdog_exit(&guard).await;
        let released = guard.release().await;
        self.exit(ended?, released)
    }

    /// Waits for the end of the watchdog, which may still have to end descendants of a client that
    /// has ended first. If the lock is lost, they have no more time.
    async fn wait_for_watchdog_exit(&self, guard: &Guard) {
        if self.watchdog.is_none() {
            return;
        }
        let gone = async { while watchdog_event(self.watchdog.as_ref()).await.is_some() {} };
        let pass_on_loss = async {
            let known = guard.lost().await.reason.is_from_the_store();
            self.send(ToWatchdog::Lost { known });
            pending::<()>().await;
        };
        let ended = async {
            tokio::select! {
                biased;
                () = gone => {}
                () = pass_on_loss => {}
            }
        };
        // The grace time is the longest for a lock without a lease.
        let _ = timeout(self.duty.grace(None) + WATCHDOG_TIMEOUT, ended).await;
    }

    /// Tells the watchdog of the lock, and waits for its answer.
    async fn start_watch(&mut self, guard: &Guard) -> Result<(), Failure> {
        let Some(watchdog) = &self.watchdog else { return Ok(()) };
        self.sent = guard.valid_until();
        let locks = guard.descriptors().map_err(|e| Failure::os("sharing the lock with the watchdog", e))?;
        let start = ToWatchdog::Start { token: guard.token().map(|t| t.get()), deadline: self.sent };
        let sent = watchdog.get_ref().send(start, &locks);
        // They are closed with the process. On a file system that hangs, a close waits, and this
        // thread has to handle signals.
        std::mem::forget(locks);
        match watchdog_event(self.watchdog.as_ref()).await {
            Some(WatchdogEvent::Started) if sent.is_ok() => Ok(()),
            Some(WatchdogEvent::TooLate) => Err(not_told(about_to_end(self.name))),
            _ => Err(Failure::new(exit::OS, "the watchdog process died, so the lock was released")),
        }
    }

    /// Lets the client work until the lock is held no longer, and ends the client if it has to.
    async fn serve(&mut self, guard: &Guard) -> Result<End, Failure> {
        let token = guard.token().map(|token| format!(" token={token}")).unwrap_or_default();
        let line = format!("held {}{token}", self.name);
        // On a thread, because a pipe that is full must not stop the renewals.
        let told = on_thread(move || print(&line));
        let end = tokio::select! {
            told = told => match told {
                Ok(Ok(())) => self.wait(guard).await,
                Ok(Err(failure)) => Err(failure),
                Err(error) => Err(Failure::start("a thread that tells of the lock", &error)),
            },
            end = self.wait(guard) => end,
        };
        let end = match end {
            Ok(end) => end,
            Err(failure) => {
                // The client counts on the lock, which is about to be released.
                if self.watchdog.is_some() {
                    self.duty.client.kill(&Family::default());
                }
                return Err(failure);
            }
        };
        if let End::Lost(lost) = &end
            && self.watchdog.is_none()
        {
            let line = format!("lost {}", lost.reason.as_str());
            let told = timeout(TELL_TIMEOUT, on_thread(move || print(&line))).await;
            told.ok().and_then(Result::ok).unwrap_or(Ok(()))?;
        }
        self.end_client(&end, guard).await;
        Ok(end)
    }

    async fn wait(&mut self, guard: &Guard) -> Result<End, Failure> {
        loop {
            self.send_deadline(guard);
            tokio::select! {
                biased;
                event = watchdog_event(self.watchdog.as_ref()) => {
                    return Ok(if event == Some(WatchdogEvent::Killed) { End::Killed } else { End::WatchdogDied });
                }
                _ = self.waiting.abandoned() => return Ok(End::Abandoned),
                signal = self.signals.next() => {
                    let signal = signal.map_err(|e| Failure::os("reading signals", e))?;
                    if !signal.is_fatal() {
                        sys::deliver_to_self(signal.number);
                    } else if !(signal.by_terminal && self.ignores_terminal) {
                        return Ok(End::Signal(signal.number));
                    }
                }
                lost = guard.lost() => return Ok(End::Lost(lost)),
                () = guard.renewed() => {}
            }
        }
    }

    /// Tells the watchdog the new end of the lease. Called in every round, because `renewed` misses
    /// a renewal between two waits.
    fn send_deadline(&mut self, guard: &Guard) {
        if let Some(until) = guard.valid_until().filter(|until| Some(*until) != self.sent) {
            self.send(ToWatchdog::Deadline(until));
            self.sent = Some(until);
        }
    }

    /// Sends a message and ignores a failure: then the watchdog is dead, which the channel reports.
    fn send(&self, message: ToWatchdog) {
        if let Some(watchdog) = &self.watchdog {
            let _ = watchdog.get_ref().send(message, &[]);
        }
    }

    /// Ends the client if it still counts on the lock, before the lock is released.
    async fn end_client(&self, end: &End, guard: &Guard) {
        let known = match end {
            End::Abandoned | End::Killed => return,
            End::Lost(lost) => lost.reason.is_from_the_store(),
            End::Signal(_) | End::WatchdogDied => false,
        };
        if self.watchdog.is_none() {
            return;
        }
        if !matches!(end, End::WatchdogDied) {
            self.send(ToWatchdog::Lost { known });
            let left = guard.valid_until().map(|until| until.since(SystemClock.now()));
            let grace = self.duty.grace(left) + WATCHDOG_TIMEOUT;
            // Not the end of the client: its descendants may live a moment longer.
            if timeout(grace, watchdog_event(self.watchdog.as_ref())).await.is_ok() {
                return;
            }
        }
        // The watchdog is dead or hangs.
        self.duty.client.kill(&Family::default());
    }

    fn exit(self, end: End, released: Result<Release, lock_core::Error>) -> Result<Exit, Failure> {
        let name = self.name;
        match end {
            End::Signal(signal) => Ok(Exit::Signal(signal)),
            End::Lost(lost) => Err(Failure::new(exit::LOST, lost.to_string())),
            End::Killed => Err(Failure::new(exit::LOST, format!("{}; its client was ended", about_to_end(name)))),
            End::WatchdogDied => Err(Failure::new(exit::OS, "the watchdog process died, so the client was ended")),
            End::Abandoned => match released {
                Ok(Release::Released) => Ok(Exit::Code(0)),
                Ok(Release::NotHeld(_)) => {
                    Err(Failure::new(exit::LOST, format!("the lock \"{name}\" was lost before it was released")))
                }
                // The client has done its work, and the lock expires with its lease.
                Err(error) => {
                    fail(&Failure::from(error).to_string(), None);
                    Ok(Exit::Code(0))
                }
            },
        }
    }
}

fn about_to_end(name: &LockName) -> String {
    format!("the lock \"{name}\" was lost: its lease was about to end")
}

fn not_told(lost: impl Display) -> Failure {
    Failure::new(exit::LOST, format!("{lost}; the client was not told of the lock"))
}

/// Returns the next event; `None` once the watchdog has ended. Without a watchdog there is none.
async fn watchdog_event(watchdog: Option<&AsyncFd<Channel>>) -> Option<WatchdogEvent> {
    match watchdog {
        Some(watchdog) => next_event(watchdog).await.ok().flatten(),
        None => pending().await,
    }
}
