//! Runs many workers under random faults, and checks the recorded history.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use lock_history::{Checks, Event, EventKind, check, hand_overs, places};
use tokio::time::{sleep, timeout};

use crate::{
    Guard, TryAcquire,
    mutex::Mutex,
    testing::{
        TestClock,
        harness::{Bench, Fixture},
    },
    types::{Clock, LeaseId, Mode},
};

const WORKERS: u64 = 4;
const ROUNDS: u32 = 8;
/// The number of rounds that must acquire the lock. Half as many where no ttl shortens the
/// attempts: each whose reply is lost then takes seconds, in a migration up to ten.
const LEAST: u64 = WORKERS * ROUNDS as u64 / 2;
/// The most rounds of a worker. It needs more than the usual ones on a busy machine, until the
/// workers together have acquired the lock often enough.
const MOST_ROUNDS: u32 = 8 * ROUNDS;
/// While a worker waits, a worker must hold the lock within this time plus two ttls.
const OBTAINABLE: Duration = Duration::from_secs(20);
/// The share of requests with a fault.
const SHARE: f64 = 0.25;
/// The environment variable that replays the faults of a failed run.
const SEED: &str = "ONELOCK_SUITE_SEED";

// verifies: P1
pub(super) async fn random_faults_never_violate_lock_guarantees(bench: &Bench<'_>) {
    run_under_faults(bench, &Load::of(&[Mode::Exclusive])).await;
}

/// What the workers do.
#[derive(Clone, Copy)]
pub(super) struct Load<'a> {
    /// The modes in which each worker acquires the name in turn.
    pub(super) modes: &'a [Mode],
    /// How many lockers the workers share.
    pub(super) lockers: u64,
    /// How often a lock is handed over within a locker.
    pub(super) hand_over: u32,
    /// Whether half of the workers wait in the order in which they came.
    pub(super) fair: bool,
}

impl<'a> Load<'a> {
    /// Each worker has its own locker.
    pub(super) fn of(modes: &'a [Mode]) -> Self {
        Self { modes, lockers: WORKERS, hand_over: 0, fair: false }
    }
}

/// Runs workers that acquire one name, and checks their history.
pub(super) async fn run_under_faults(bench: &Bench<'_>, load: &Load<'_>) {
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        LeaseId::random().to_string().bytes().fold(7, |n: u64, b| n.wrapping_mul(31) + u64::from(b))
    });
    println!("faults by {SEED}={seed}");
    let name = bench.name("chaos");
    // All workers share one clock, because the history has one timeline.
    let clock = Arc::new(TestClock::new());
    let history = Mutex::new(Vec::new());
    let has_ttl = bench.client().await.capabilities().ttl;
    let least = if has_ttl { LEAST } else { LEAST / 2 };
    join_all((0..load.lockers).map(|locker| {
        let (name, clock, history) = (&name, &clock, &history);
        async move {
            let ttl = bench.subject.ttl();
            let fixture = &Fixture::with_ttl(bench, ttl).await;
            fixture.network.at_random(seed.wrapping_add(locker), SHARE, ttl / 4);
            let workers = (locker..WORKERS).step_by(load.lockers as usize);
            join_all(workers.map(|number| Worker { number, fixture, clock, history, name, load, ttl }.work(least)))
                .await;
        }
    }))
    .await;
    let history = std::mem::take(&mut *history.lock());
    // Without a ttl, a grant whose reply was lost lasts until its client gives up. The waiting
    // time then has no bound here.
    let obtainable_within = has_ttl.then_some(OBTAINABLE + 2 * bench.subject.ttl());
    let report = check(&history, &Checks { obtainable_within, ..Checks::default() });
    assert!(report.violations.is_empty(), "faults by {SEED}={seed}\n{report}");
    assert!(report.acquisitions >= least, "faults by {SEED}={seed}\n{report}");
    assert!(load.hand_over == 0 || report.handed_over > 0, "faults by {SEED}={seed}\n{report}");
}

struct Worker<'a> {
    number: u64,
    fixture: &'a Fixture,
    clock: &'a Arc<TestClock>,
    history: &'a Mutex<Vec<Event>>,
    name: &'a crate::LockName,
    load: &'a Load<'a>,
    ttl: Duration,
}

impl Worker<'_> {
    fn note(&self, at: Duration, kind: EventKind) {
        let event = Event { at, worker: self.number, name: Arc::from(self.name.as_str()), kind };
        self.history.lock().push(event);
    }

    fn now(&self) -> Duration {
        self.clock.now().boot
    }

    /// Returns whether the workers together have acquired the lock often enough.
    fn has_enough(&self, least: u64) -> bool {
        let history = self.history.lock();
        let is_grant = |event: &&Event| matches!(event.kind, EventKind::Granted { .. });
        history.iter().filter(is_grant).count() as u64 >= least
            && (self.load.hand_over == 0 || hand_overs(&*history) > 0)
    }

    async fn work(self, least: u64) {
        let modes = self.load.modes.iter().copied().cycle().skip(self.number as usize);
        for (round, mode) in (0..MOST_ROUNDS).zip(modes) {
            if round >= ROUNDS && self.has_enough(least) {
                return;
            }
            let (began, refusals) = (self.now(), Arc::new(Mutex::new(Vec::new())));
            self.note(began, EventKind::Attempt { owner: None });
            let patience = Duration::from_secs(5);
            let request = self.fixture.locker.lock(self.name.as_str()).mode(mode).hand_over(self.load.hand_over);
            let fair = self.load.fair && self.number.is_multiple_of(2);
            let (clock, noted) = (Arc::clone(self.clock), Arc::clone(&refusals));
            let request = request.fair(fair).on_contention(move |_| noted.lock().push(clock.now().boot));
            let answer = timeout(2 * patience, request.acquire_within(patience)).await;
            let mode = match mode {
                Mode::Exclusive => lock_history::Mode::Exclusive,
                Mode::Shared => lock_history::Mode::Shared,
                Mode::Permit { of } => lock_history::Mode::Permit { of: of.get() },
            };
            let guard = match answer {
                Ok(Ok(TryAcquire::Acquired(guard))) => Some(guard),
                _ => None,
            };
            if fair {
                let refusals = std::mem::take(&mut *refusals.lock());
                self.note_places(began, refusals, mode, guard.as_ref());
            }
            match guard {
                Some(guard) => self.hold(mode, guard).await,
                None => self.note(self.now(), EventKind::GaveUp),
            }
        }
    }

    /// Notes the places of a fair attempt in the queue of the store.
    fn note_places(
        &self,
        began: Duration,
        mut replies: Vec<Duration>,
        mode: lock_history::Mode,
        guard: Option<&Guard>,
    ) {
        // Read before the guard is asked, so that the interval is not overstated.
        let at = self.now();
        if !replies.is_empty() && guard.is_some_and(|guard| guard.check().is_ok()) {
            replies.push(at);
        }
        for (at, until) in places(began, &replies, self.ttl) {
            let place = self.history.lock().len() as u64;
            self.note(at, EventKind::Queued { place, mode, until });
        }
    }

    async fn hold(&self, mode: lock_history::Mode, guard: Guard) {
        for round in 0..4 {
            // Read before the guard is asked, so that the interval is not overstated.
            let at = self.now();
            let until = guard.remaining().map(|left| at + left);
            if let Err(lost) = guard.check() {
                return self.note(self.now(), EventKind::Lost { told: lost.reason.is_from_the_store() });
            }
            let token = guard.token().map(crate::FencingToken::get);
            let granted = EventKind::Granted { token, until, mode };
            self.note(at, if round == 0 { granted } else { EventKind::Valid { until } });
            // The work that the lock protects.
            sleep(Duration::from_millis(3)).await;
        }
        self.note(self.now(), EventKind::Released);
        let _ = guard.release().await;
    }
}
