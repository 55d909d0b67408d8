//! The one task of a `Locker` that renews all its leases and ends those that could not be renewed.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{Notify, OwnedMutexGuard},
    time::{Instant, timeout},
};

use crate::{
    backend::Backend,
    capabilities::Pace,
    clock::{Clock, Moment},
    error::{Error, ErrorKind, Operation},
    hold::{Hold, Pulse, TICK},
    lease::LeaseId,
};

/// Renewals that come due within this time of each other go out together.
const COALESCE: Duration = Duration::from_millis(20);
/// A difference between our clock and the timers' that means: the machine slept, or a clock was set.
const JUMP: Duration = Duration::from_millis(100);
/// Further ahead nothing is scheduled: a limit of centuries must not overflow a timer.
const FAR: Duration = Duration::from_secs(3600);
/// How soon a renewal is tried again whose lock is just being renewed by hand.
const BUSY: Duration = Duration::from_millis(50);

/// Renews and ends holds. One task for all of them: a task per lock costs memory per lock and renews one lock per request.
#[derive(Debug)]
pub(crate) struct Keeper {
    backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    pace: Pace,
    pub(crate) pulse: Arc<Pulse>,
    schedule: Mutex<Schedule>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Schedule {
    holds: HashMap<LeaseId, Arc<Hold>>,
    /// May hold stale entries: of holds that are gone, or that come due later than it says.
    due: BinaryHeap<Reverse<(Instant, LeaseId)>>,
    running: bool,
    sleeping_until: Option<Instant>,
}

impl Keeper {
    pub(crate) fn new(backend: Arc<dyn Backend>, clock: Arc<dyn Clock>) -> Self {
        let pulse = Arc::new(Pulse::new(clock.now()));
        let pace = backend.pace();
        Self { backend, clock, pace, pulse, schedule: Mutex::default(), wake: Notify::new() }
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `hold` in. Called from within a runtime, on which the task starts unless it is running.
    pub(crate) fn keep(self: &Arc<Self>, hold: &Arc<Hold>) {
        let due = hold.due_in(self.clock.now()).map(|after| Instant::now() + after.min(FAR));
        let mut schedule = self.schedule();
        schedule.holds.insert(hold.lease.id, Arc::clone(hold));
        schedule.push(due, hold.lease.id);
        if !schedule.running {
            schedule.running = true;
            drop(schedule);
            self.pulse.beat(self.clock.now());
            tokio::spawn(run(Running { keeper: Arc::clone(self), ended: false }));
        } else if due.is_some_and(|due| schedule.sleeping_until.is_some_and(|until| due < until)) {
            drop(schedule);
            self.wake.notify_one();
        }
    }

    /// Lets go of the hold with that id.
    pub(crate) fn forget(&self, id: LeaseId) {
        self.schedule().holds.remove(&id);
    }

    /// One look at everything that is due: returns the holds to renew, and when to look again; `None` when nothing is left to keep.
    fn round(&self, now: Moment, jumped: bool, idle: bool) -> Option<(Vec<Arc<Hold>>, Instant)> {
        let mut schedule = self.schedule();
        if schedule.holds.is_empty() && idle {
            schedule.running = false;
            schedule.sleeping_until = None;
            schedule.due.clear();
            return None;
        }
        let started = Instant::now();
        if jumped || schedule.due.len() > 2 * schedule.holds.len() + 64 {
            schedule.rebuild(now, started);
        }
        let mut renew = Vec::new();
        let mut later = Vec::new();
        while let Some(&Reverse((at, id))) = schedule.due.peek() {
            if at > started + COALESCE {
                break;
            }
            schedule.due.pop();
            let Some(hold) = schedule.holds.get(&id).cloned() else { continue };
            if hold.check(now).is_err() {
                schedule.holds.remove(&id);
                continue;
            }
            if hold.take_renewal(now, COALESCE) {
                renew.push(Arc::clone(&hold));
            }
            later.push((hold.due_in(now).map(|after| started + after.clamp(Duration::from_millis(1), FAR)), id));
        }
        for (due, id) in later {
            schedule.push(due, id);
        }
        let next = schedule.due.peek().map_or(started + TICK, |&Reverse((at, _))| at.min(started + TICK));
        schedule.sleeping_until = Some(next);
        Some((renew, next))
    }

    /// Sends one renewal for `holds` and takes the answers in. Bounded in time; a hung one holds nothing else up.
    async fn renew(&self, holds: Vec<Arc<Hold>>) {
        let mut sent: Vec<(Arc<Hold>, OwnedMutexGuard<()>)> = Vec::with_capacity(holds.len());
        for hold in holds {
            match Arc::clone(&hold.requests).try_lock_owned() {
                Ok(requests) => sent.push((hold, requests)),
                Err(_) => self.again(&hold, Some(BUSY)),
            }
        }
        let leases: Vec<_> = sent.iter().map(|(hold, _)| hold.sending().1).collect();
        if leases.is_empty() {
            return;
        }
        let limit = sent.iter().map(|(hold, _)| hold.timing.attempt_timeout).min().unwrap_or(self.pace.attempt_timeout);
        let mut answers = match timeout(limit, self.backend.renew_many(&leases)).await {
            Ok(answers) => answers.into_iter(),
            Err(_) => Vec::new().into_iter(),
        };
        for ((hold, requests), lease) in sent.into_iter().zip(&leases) {
            let answer = answers.next().unwrap_or_else(|| Err(no_reply(limit)));
            hold.settle(lease, &answer);
            drop(requests);
            self.again(&hold, None);
        }
    }

    fn again(&self, hold: &Arc<Hold>, after: Option<Duration>) {
        if let Some(after) = after {
            hold.renew_in(after);
        }
        if hold.is_over() {
            self.forget(hold.lease.id);
        } else {
            let due = hold.due_in(self.clock.now()).map(|after| Instant::now() + after.min(FAR));
            self.schedule().push(due, hold.lease.id);
        }
    }
}

/// The error of a request to which no reply came within `limit`.
pub(crate) fn no_reply(limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("the store did not answer within {limit:?}"))
        .with_operation(Operation::Renew)
}

impl Schedule {
    fn push(&mut self, due: Option<Instant>, id: LeaseId) {
        if let Some(due) = due {
            self.due.push(Reverse((due, id)));
        }
    }

    fn rebuild(&mut self, now: Moment, started: Instant) {
        self.due = self
            .holds
            .iter()
            .filter_map(|(id, hold)| Some(Reverse((started + hold.due_in(now)?.min(FAR), *id))))
            .collect();
    }
}

/// The task of a keeper. Notes its end, also when its runtime drops it before it has run at all: the next lock starts a new one.
struct Running {
    keeper: Arc<Keeper>,
    /// The regular end has been noted by `round`, and another task may be running by now.
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let mut schedule = self.keeper.schedule();
            schedule.running = false;
            schedule.sleeping_until = None;
        }
    }
}

async fn run(mut running: Running) {
    let keeper = Arc::clone(&running.keeper);
    let mut renewals = FuturesUnordered::new();
    let mut last = (Instant::now(), keeper.clock.now());
    loop {
        let now = keeper.clock.now();
        let jumped = now.since(last.1) > last.0.elapsed() + JUMP;
        last = (Instant::now(), now);
        let Some((due, until)) = keeper.round(now, jumped, renewals.is_empty()) else {
            running.ended = true;
            return;
        };
        // After the round: the gap since the last beat is the reason that a frozen hold gives.
        keeper.pulse.beat(now);
        for batch in due.chunks(keeper.pace.renew_batch.max(1)) {
            renewals.push(keeper.renew(batch.to_vec()));
        }
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = keeper.wake.notified() => {}
            Some(()) = renewals.next(), if !renewals.is_empty() => {}
        }
    }
}
