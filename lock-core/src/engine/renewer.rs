//! The task of a `Locker` that renews all its leases and ends those that could not be renewed.

mod runtimes;
mod stand_by;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    panic::AssertUnwindSafe,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    runtime::{Handle, Id},
    sync::{MutexGuard as RequestsGuard, Notify},
    time::{Instant, timeout},
};

use self::runtimes::Runtimes;
use crate::{
    backend::{Backend, StoreTimings},
    engine::{
        freeze::{FreezeDetector, TICK},
        hand_over::TAKEN_WITHIN,
        hold::LeaseState,
        queue::LeaseLeft,
    },
    mutex::Mutex,
    types::{Clock, ClockReading, Error, ErrorKind, LeaseId, Operation, no_reply},
};

/// Renewals that come due within this time of each other go out together.
const COALESCE: Duration = Duration::from_millis(20);
/// A larger difference between the clock and the timers means a suspend or a clock that was set.
const JUMP: Duration = Duration::from_millis(100);
/// The longest time that is scheduled ahead, because a limit of centuries would overflow a timer.
const FAR: Duration = Duration::from_secs(3600);
/// The pause before a renewal is retried while a manual renewal of the same lock is in flight.
const BUSY: Duration = Duration::from_millis(50);

/// Renews and ends holds, in one task for all. A task per lock would cost memory, and could renew
/// only one lock per request.
#[derive(Debug)]
pub(crate) struct Renewer {
    backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    pace: StoreTimings,
    pub(crate) detector: Arc<FreezeDetector>,
    schedule: Mutex<Schedule>,
    /// The task has ended before its time, and may have left holds.
    interrupted: AtomicBool,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Schedule {
    holds: BTreeMap<LeaseId, Arc<LeaseState>>,
    /// May contain stale entries: of removed holds, and of holds that are due later.
    due: BinaryHeap<Reverse<(Instant, LeaseId)>>,
    /// Leases between two guards.
    left: Vec<LeaseLeft>,
    running: bool,
    sleeping_until: Option<Instant>,
    runtimes: Runtimes,
    /// The runtimes on which requests wait for their turn, and how many do. The task starts there
    /// if no runtime of a hold is left.
    waiting: Vec<(Handle, usize)>,
}

impl Renewer {
    pub(crate) fn new(backend: Arc<dyn Backend>, clock: Arc<dyn Clock>) -> Self {
        let pace = backend.timings();
        let (detector, schedule, interrupted) = (Arc::default(), Mutex::default(), AtomicBool::new(false));
        Self { backend, clock, pace, detector, schedule, interrupted, wake: Notify::new() }
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock()
    }

    /// Starts to renew `hold`. Called within a runtime, on which the task starts unless it is
    /// running.
    pub(crate) fn keep(self: &Arc<Self>, hold: &Arc<LeaseState>, now: ClockReading) {
        let due = hold.due_in(now).map(|after| Instant::now() + after.min(FAR));
        let mut schedule = self.schedule();
        schedule.holds.insert(hold.lease.id, Arc::clone(hold));
        schedule.push(due, hold.lease.id);
        if schedule.is_stale() {
            schedule.rebuild(now, Instant::now());
        }
        let runtime = Handle::current();
        schedule.runtimes.note(&runtime);
        let early = due.is_some_and(|due| schedule.sleeping_until.is_some_and(|until| due < until));
        let starts = schedule.starts();
        drop(schedule);
        if early {
            self.wake.notify_one();
        }
        if starts {
            self.start(&runtime);
        }
    }

    /// Releases a lease that was handed over if no waiter takes it in time.
    pub(crate) fn watch(&self, left: LeaseLeft) {
        let mut schedule = self.schedule();
        schedule.left.push(left);
        drop(schedule);
        self.wake.notify_one();
    }

    /// Starts the task on `runtime`, unless it is running or has nothing to do.
    pub(crate) fn revive(self: &Arc<Self>, runtime: &Handle) {
        // Every acquisition comes here, and a task is seldom interrupted.
        if !self.interrupted.load(Ordering::Acquire) {
            return;
        }
        let mut schedule = self.schedule();
        let starts = schedule.starts();
        self.interrupted.store(false, Ordering::Release);
        drop(schedule);
        if starts {
            self.start(runtime);
        }
    }

    fn start(self: &Arc<Self>, runtime: &Handle) {
        self.detector.sample(self.clock.now());
        // A task of its own renews the locks while no guard is polled.
        runtime.spawn(run(Running { renewer: Arc::clone(self), runtime: runtime.id(), ended: false }));
    }

    /// Prepares a new task. Its predecessor may have left renewals unanswered, and the timers
    /// belong to another runtime.
    fn begin(&self) {
        let now = self.clock.now();
        let mut schedule = self.schedule();
        schedule.holds.values().for_each(|hold| hold.resume(now));
        schedule.rebuild(now, Instant::now());
    }

    /// Removes the hold, unless its lease has been handed over to another one.
    pub(crate) fn forget(&self, hold: &Arc<LeaseState>) {
        let mut schedule = self.schedule();
        schedule.remove(hold);
        if schedule.holds.is_empty() {
            // Otherwise the entries of short holds would accumulate until the next round.
            schedule.due.clear();
        }
    }

    /// Checks all holds that are due. Returns the holds to renew and the time of the next round, or
    /// `None` if no hold is left.
    fn round(&self, now: ClockReading, jumped: bool, idle: bool) -> Option<(Vec<Arc<LeaseState>>, Instant)> {
        let mut schedule = self.schedule();
        if schedule.holds.is_empty() && schedule.left.is_empty() && idle {
            schedule.running = false;
            schedule.sleeping_until = None;
            schedule.due.clear();
            schedule.runtimes.clear();
            return None;
        }
        let started = Instant::now();
        if jumped || schedule.is_stale() {
            schedule.rebuild(now, started);
        }
        let mut due = Vec::new();
        while let Some(&Reverse((at, id))) = schedule.due.peek() {
            if at > started + COALESCE {
                break;
            }
            schedule.due.pop();
            due.extend(schedule.holds.get(&id).cloned());
        }
        let mut left = std::mem::take(&mut schedule.left);
        drop(schedule);
        let (mut renew, mut later, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        for hold in due {
            let id = hold.lease.id;
            // Without the schedule's mutex, because `check` announces a loss to code that may use
            // this locker.
            if hold.check(now).is_err() {
                ended.push(hold);
                continue;
            }
            if hold.take_renewal(now, COALESCE) {
                renew.push(Arc::clone(&hold));
            }
            later.push((hold.due_in(now).map(|after| started + after.clamp(Duration::from_millis(1), FAR)), id));
        }
        let mut soonest = TAKEN_WITHIN;
        left.retain(|left| left.time_left().inspect(|own| soonest = soonest.min(*own)).is_some());
        let mut schedule = self.schedule();
        schedule.left.append(&mut left);
        for hold in &ended {
            schedule.remove(hold);
        }
        for (due, id) in later {
            schedule.push(due, id);
        }
        let longest = if schedule.left.is_empty() { TICK } else { soonest };
        let next = schedule.due.peek().map_or(started + longest, |&Reverse((at, _))| at.min(started + longest));
        schedule.sleeping_until = Some(next);
        Some((renew, next))
    }

    /// Sends one renewal for `holds` and applies the answers. Limited in time, so a hung request
    /// does not delay other renewals.
    async fn renew(&self, holds: Vec<Arc<LeaseState>>) {
        let mut sent: Vec<(&Arc<LeaseState>, RequestsGuard<'_, ()>)> = Vec::with_capacity(holds.len());
        for hold in &holds {
            match hold.requests.try_lock() {
                // Released since the renewal came due. The next guard of the lease would not learn
                // of a loss.
                Ok(_) if hold.is_over() => self.forget(hold),
                Ok(requests) => sent.push((hold, requests)),
                Err(_) => self.again(hold, Some(BUSY)),
            }
        }
        if sent.is_empty() {
            return;
        }
        let renewals: Vec<_> = sent.iter().map(|(hold, _)| hold.sending()).collect();
        let leases: Vec<_> = renewals.iter().map(|renewal| renewal.lease.clone()).collect();
        let limit = sent.iter().map(|(hold, _)| hold.timing.attempt_timeout).min().unwrap_or(self.pace.attempt_timeout);
        // A panic must not end the renewals of all other locks.
        let call = AssertUnwindSafe(async { self.backend.renew_many(&leases).await }).catch_unwind();
        let (answers, panicked) = match timeout(limit, call).await {
            Ok(Ok(answers)) => (answers, false),
            Ok(Err(_)) => (Vec::new(), true),
            Err(_) => (Vec::new(), false),
        };
        let mut answers = answers.into_iter();
        for ((hold, requests), renewal) in sent.into_iter().zip(&renewals) {
            let missing = || if panicked { backend_panicked() } else { no_reply(limit) };
            let answer = answers.next().unwrap_or_else(|| Err(missing().with_operation(Operation::Renew)));
            hold.settle(renewal, &answer);
            drop(requests);
            self.again(hold, None);
        }
    }

    fn again(&self, hold: &Arc<LeaseState>, after: Option<Duration>) {
        if let Some(after) = after {
            hold.renew_in(after);
        }
        if hold.is_over() {
            self.forget(hold);
        } else {
            let due = hold.due_in(self.clock.now()).map(|after| Instant::now() + after.min(FAR));
            self.schedule().push(due, hold.lease.id);
        }
    }
}

fn backend_panicked() -> Error {
    Error::new(ErrorKind::Other, "the backend panicked").with_ambiguous(true)
}

impl Schedule {
    /// Returns `true` if the caller has to start the task.
    fn starts(&mut self) -> bool {
        let starts = !self.running && !self.holds.is_empty();
        self.running |= starts;
        starts
    }

    fn remove(&mut self, hold: &Arc<LeaseState>) {
        if self.holds.get(&hold.lease.id).is_some_and(|known| Arc::ptr_eq(known, hold)) {
            self.holds.remove(&hold.lease.id);
        }
    }

    /// Returns `true` if more than half of the entries are stale. The 64 avoid a rebuild at every
    /// round for a few holds.
    fn is_stale(&self) -> bool {
        self.due.len() > 2 * self.holds.len() + 64
    }

    fn push(&mut self, due: Option<Instant>, id: LeaseId) {
        if let Some(due) = due {
            self.due.push(Reverse((due, id)));
        }
    }

    fn rebuild(&mut self, now: ClockReading, started: Instant) {
        self.due = self
            .holds
            .iter()
            .filter_map(|(id, hold)| Some(Reverse((started + hold.due_in(now)?.min(FAR), *id))))
            .collect();
    }
}

/// The running task of a renewer. Its drop records the end of the task, even if the runtime drops
/// it before its first poll. The task then starts on another runtime that acquired locks or waits
/// for one, or with the next request.
struct Running {
    renewer: Arc<Renewer>,
    runtime: Id,
    /// `round` has recorded the regular end, and another task may already be running.
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut schedule = self.renewer.schedule();
        schedule.running = false;
        schedule.sleeping_until = None;
        self.renewer.interrupted.store(true, Ordering::Release);
        self.renewer.detector.stop();
        // Both lists lose the runtime, so a series of ended runtimes terminates.
        schedule.runtimes.remove(self.runtime);
        schedule.waiting.retain(|(runtime, _)| runtime.id() != self.runtime);
        let waiting = schedule.waiting.last().map(|(runtime, _)| runtime);
        let next = schedule.runtimes.last().or(waiting).cloned();
        drop(schedule);
        if let Some(next) = next {
            self.renewer.revive(&next);
        }
    }
}

async fn run(mut running: Running) {
    let renewer = Arc::clone(&running.renewer);
    let mut renewals = FuturesUnordered::new();
    renewer.begin();
    // Short holds often follow each other, and a new task for each would cost more than the hold.
    let mut stays = true;
    let mut last = (Instant::now(), renewer.clock.now());
    loop {
        let now = renewer.clock.now();
        let jumped = now.since(last.1) > last.0.elapsed() + JUMP;
        last = (Instant::now(), now);
        let Some((due, until)) = renewer.round(now, jumped, renewals.is_empty() && !stays) else {
            running.ended = true;
            return;
        };
        stays = false;
        // Sampled after the round, which reports the gap since the last sample as the reason of a
        // loss.
        renewer.detector.sample(now);
        for batch in due.chunks(renewer.pace.renew_batch.max(1)) {
            renewals.push(renewer.renew(batch.to_vec()));
        }
        tokio::select! {
            biased;
            // First, because hand-overs may wake the task in each round.
            Some(()) = renewals.next(), if !renewals.is_empty() => {}
            () = renewer.wake.notified() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
}
