//! A contending process: its tasks acquire locks in several ways, write under them, and record
//! every event.

use std::{
    num::NonZeroU16,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use lock_core::{ErrorKind, Guard, Holder, Locker, Lost, Mode, TryAcquire};
use lock_history::{EventKind, places};
use nix::{
    sys::{
        prctl,
        signal::{Signal, raise},
    },
    unistd::{Pid, getppid},
};
use tokio::time::{sleep, timeout};

use super::{
    journal::Journal,
    resource,
    shared::{TASKS, TortureRun, now},
};
use crate::{
    args::{StoreArgs, TortureWorkerArgs},
    exit::{Exit, Failure},
    probes,
    runtime::runtime,
    store::StoreLocation,
};

struct Worker {
    run: TortureRun,
    locker: Locker,
    journal: Journal,
    rng: fastrand::Rng,
    /// The index of the name that a task of this process wanted last, and would hand over.
    meeting: Arc<AtomicU32>,
    has_ttl: bool,
    attempts: u64,
    places: u64,
}

/// How many permits the names have that are held in all modes.
const PERMITS: NonZeroU16 = NonZeroU16::new(3).expect("it is not zero");

/// How often the tasks of a process hand a lock over in a row.
const HAND_OVER: u32 = 8;

/// The refusals of an attempt.
#[derive(Clone, Default)]
struct Refusals(Arc<Mutex<Refused>>);

#[derive(Default)]
struct Refused {
    /// The holders, with the time; a repeated holder is recorded once.
    holders: Vec<(Duration, Option<String>)>,
    /// The times of all refusals of an attempt that has a place in the queue.
    queued: Vec<Duration>,
}

impl Refusals {
    fn noted(&self) -> MutexGuard<'_, Refused> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, holder: &Holder, queues: bool) {
        let (mut noted, at) = (self.noted(), now());
        noted.queued.extend(queues.then_some(at));
        if noted.holders.last().is_none_or(|(_, before)| *before != holder.owner) {
            noted.holders.push((at, holder.owner.clone()));
        }
    }
}

fn noted(mode: Mode) -> lock_history::Mode {
    match mode {
        Mode::Shared => lock_history::Mode::Shared,
        Mode::Permit { of } => lock_history::Mode::Permit { of: of.get() },
        _ => lock_history::Mode::Exclusive,
    }
}

/// Runs the hidden subcommand.
pub(crate) fn run_worker(args: TortureWorkerArgs) -> Result<Exit, Failure> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| Failure::os("setting the signal for the parent's death", e))?;
    if getppid() != Pid::from_raw(args.parent) {
        return Ok(Exit::Code(0));
    }
    let run = TortureRun { directory: args.directory, prefix: args.prefix, names: args.names, ttl: args.ttl };
    let store = StoreLocation::choose(&StoreArgs::default())?;
    runtime()?.block_on(async {
        let locker = store.open().await?;
        let noting = |e: std::io::Error| Failure::os("writing the journal", e);
        let (mut tasks, meeting) = (Vec::new(), Arc::default());
        for task in 0..TASKS {
            let mut worker = Worker {
                run: run.clone(),
                locker: locker.clone(),
                journal: Journal::create(&run.directory, args.number * TASKS + task).map_err(noting)?,
                rng: fastrand::Rng::with_seed(args.seed.wrapping_add(task)),
                meeting: Arc::clone(&meeting),
                has_ttl: locker.capabilities().ttl,
                attempts: 0,
                places: 0,
            };
            // Several tasks of one process also contend with each other.
            tasks.push(tokio::spawn(async move { worker.work().await }));
        }
        for task in tasks {
            task.await.map_err(std::io::Error::other).flatten().map_err(noting)?;
        }
        Ok(Exit::Code(0))
    })
}

impl Worker {
    async fn work(&mut self) -> std::io::Result<()> {
        while !self.run.stop_file().exists() {
            let pause = self.random(0, 10);
            // The pause has a random length, so that attempts overlap at every point.
            sleep(pause).await;
            self.attempts += 1;
            // A lock is handed over between requests of one owner, which is that of the process.
            let owned = self.rng.bool() || !self.locker.capabilities().hand_over;
            let name = self.name(owned);
            let owner = owned.then(|| format!("{}-{}", self.journal.worker(), self.attempts));
            let (refusals, began) = (Refusals::default(), now());
            self.journal.note(began, &name, &EventKind::Attempt { owner: owner.clone() })?;
            let mode = self.mode(&name);
            let guard = self.acquire(&name, mode, owner, &refusals).await?;
            let Refused { holders, queued } = std::mem::take(&mut *refusals.noted());
            for (at, owner) in holders {
                self.journal.note(at, &name, &EventKind::Refused { owner })?;
            }
            let mode = noted(mode);
            if !queued.is_empty() {
                self.note_places(&name, mode, began, queued, guard.as_ref())?;
            }
            match guard {
                Some(guard) => self.hold(&name, mode, guard).await?,
                None => self.journal.note(now(), &name, &EventKind::GaveUp)?,
            }
        }
        Ok(())
    }

    fn random(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        Duration::from_millis(self.rng.u64(from_ms..to_ms))
    }

    /// Chooses a lock. All workers want the first names, and few want the last.
    ///
    /// Half of the requests that would hand the lock over follow another one of their process. Too
    /// few of them would meet at a lock otherwise.
    fn name(&mut self, owned: bool) -> String {
        if !owned && self.rng.bool() {
            return self.run.name(self.meeting.load(Ordering::Relaxed));
        }
        let most = self.rng.u32(..self.run.names);
        let index = self.rng.u32(..=most);
        if !owned {
            self.meeting.store(index, Ordering::Relaxed);
        }
        self.run.name(index)
    }

    /// Chooses how to hold the lock. Every second name is held in all modes of the store.
    fn mode(&mut self, name: &str) -> Mode {
        let capabilities = self.locker.capabilities();
        if !name.ends_with(['1', '3', '5', '7', '9']) || !(capabilities.shared || capabilities.permits) {
            return Mode::Exclusive;
        }
        match self.rng.u8(..4) {
            0 | 1 if capabilities.shared => Mode::Shared,
            2 if capabilities.permits => Mode::Permit { of: PERMITS },
            _ => Mode::Exclusive,
        }
    }

    /// Acquires the lock in one of several ways; one of them is cancelled at a random point.
    async fn acquire(
        &mut self,
        name: &str,
        mode: Mode,
        owner: Option<String>,
        refusals: &Refusals,
    ) -> std::io::Result<Option<Guard>> {
        let observer = refusals.clone();
        let fair = owner.is_some() && self.locker.capabilities().fair && self.rng.bool();
        let request = probes::short_lived(&self.locker, name, self.run.ttl).mode(mode).fair(fair);
        let request = match owner {
            Some(owner) => request.owner(owner),
            None => request.hand_over(HAND_OVER),
        };
        let way = self.rng.u8(..4);
        // The first way does not wait.
        let queues = fair && way > 0;
        let request = request.on_contention(move |holder| observer.note(holder, queues));
        let patience = self.random(1, 3_000);
        let outcome = match way {
            0 => request.try_acquire().await,
            1 | 2 => request.acquire_within(patience).await,
            _ => match timeout(patience, request.acquire()).await {
                Ok(outcome) => outcome.map(TryAcquire::Acquired),
                Err(_) => return Ok(None),
            },
        };
        match outcome {
            Ok(TryAcquire::Acquired(guard)) => Ok(Some(guard)),
            Ok(TryAcquire::Contended(_)) => Ok(None),
            Err(error) => {
                // An error of a cut connection is expected; a wrong configuration is not.
                let kind = if error.kind() == ErrorKind::Config { "configuration: " } else { "" };
                self.journal.error(&format!("{kind}{error}"))?;
                // An outage lasts longer than an attempt. Without a pause the journal would fill
                // with errors.
                sleep(Duration::from_millis(200)).await;
                Ok(None)
            }
        }
    }

    /// Checks the guard, and returns a time from before the check, at which it was valid, too.
    fn still_valid(guard: &Guard) -> Result<(Duration, Option<Duration>), Lost> {
        let (at, until) = (now(), guard.valid_until().map(|until| until.boot));
        guard.check().map(|()| (at, until))
    }

    /// Records the places in the queue of the store that an attempt had.
    fn note_places(
        &mut self,
        name: &str,
        mode: lock_history::Mode,
        began: Duration,
        mut replies: Vec<Duration>,
        guard: Option<&Guard>,
    ) -> std::io::Result<()> {
        if let Some(Ok((at, _))) = guard.map(Self::still_valid) {
            replies.push(at);
        }
        for (at, until) in places(began, &replies, self.run.ttl) {
            self.places += 1;
            let place = (self.journal.worker() << 32) + self.places;
            self.journal.note(at, name, &EventKind::Queued { place, mode, until })?;
        }
        Ok(())
    }

    async fn hold(&mut self, name: &str, mode: lock_history::Mode, guard: Guard) -> std::io::Result<()> {
        let Ok((at, until)) = Self::still_valid(&guard) else {
            return self.journal.note(now(), name, &EventKind::GaveUp);
        };
        let token = guard.token().map(lock_core::FencingToken::get);
        self.journal.note(at, name, &EventKind::Granted { token, until, mode })?;
        let lost = self.work_under_lock(name, &guard, token).await?;
        let end = match lost {
            None => EventKind::Released,
            Some(lost) => EventKind::Lost { told: lost.reason.is_from_the_store() },
        };
        self.journal.note(now(), name, &end)?;
        if self.rng.u8(..4) == 0 {
            drop(guard);
        } else if let Err(error) = guard.release().await {
            self.journal.error(&error.to_string())?;
        }
        Ok(())
    }

    /// Writes to the protected resource a few times, or until the lock is lost. One worker in four
    /// writes once more after a loss.
    async fn work_under_lock(
        &mut self,
        name: &str,
        guard: &Guard,
        token: Option<u64>,
    ) -> std::io::Result<Option<Lost>> {
        let longest = if self.rng.u8(..100) == 0 { 500 } else { 4 };
        let careless = self.rng.u8(..4) == 0;
        for _ in 0..self.rng.u32(1..5) {
            if self.has_ttl && self.rng.u16(..2_000) == 0 {
                // The worker freezes in the middle of its work until the parent resumes it, often
                // after the end of the lease.
                raise(Signal::SIGSTOP)?;
            }
            let pause = self.random(0, longest);
            // This stands for the work that the lock protects.
            sleep(pause).await;
            match Self::still_valid(guard) {
                Ok((at, until)) => self.journal.note(at, name, &EventKind::Valid { until })?,
                Err(lost) if !careless => return Ok(Some(lost)),
                Err(lost) => {
                    self.write(name, token)?;
                    return Ok(Some(lost));
                }
            }
            self.write(name, token)?;
        }
        Ok(guard.check().err())
    }

    fn write(&mut self, name: &str, token: Option<u64>) -> std::io::Result<()> {
        let Some(token) = token else { return Ok(()) };
        let index = name.strip_prefix(&self.run.prefix).unwrap_or_default();
        let path = self.run.directory.join(format!("resource-{index}"));
        if let Some(decision) = resource::offer(&path, token)? {
            let what = if decision.accepted { EventKind::Accepted { token } } else { EventKind::Rejected { token } };
            self.journal.note(decision.at, name, &what)?;
        }
        Ok(())
    }
}
