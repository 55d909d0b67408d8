//! A client process: a runtime with timers of its own, the real core in it, and a backend.

use std::{
    mem,
    sync::{Arc, PoisonError},
    time::Duration,
};

use lock_core::{Locker, clock::Clock};
use tokio::runtime::{Builder, Runtime};

use super::{
    Mistake,
    clock::SimClock,
    subject::Subject,
    wire::{Outbox, Outgoing, Wire},
    worker::{Slot, Worker},
};

/// Why a client does not run, until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// SIGSTOP: its timers have gone on when it runs again.
    Frozen,
    /// The machine slept: timers stood still, the clocks did not.
    Suspended,
    /// The virtual machine stood still: only its wall clock knows.
    Thawed,
}

/// One client process.
#[derive(Debug)]
pub(super) struct Client {
    runtime: Runtime,
    pub(super) clock: Arc<SimClock>,
    outbox: Outbox,
    pub(super) slots: Vec<Slot>,
    pub(super) paused: Option<(Pause, Duration, Duration)>,
    /// Requests get lost; replies get lost; until when.
    pub(super) cut: Option<(bool, bool, Duration)>,
    /// Its wall clock may be set at will, because its machine is never paused.
    pub(super) steps_clock: bool,
}

impl Client {
    pub(super) fn start(
        subject: &Subject<'_>,
        mistake: Option<Mistake>,
        clock: SimClock,
        steps_clock: bool,
        workers: impl FnOnce(&Locker, &Outbox) -> Vec<Worker>,
    ) -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let (clock, outbox) = (Arc::new(clock), Outbox::default());
        let wire = Wire { mistake, outbox: Arc::clone(&outbox), clock: Arc::clone(&clock) };
        let backend = subject.backend(wire, &clock);
        let locker = Locker::builder(backend).clock(Arc::clone(&clock) as Arc<dyn Clock>).build();
        let mut slots = Vec::new();
        for worker in workers(&locker.expect("the defaults fit"), &outbox) {
            slots.push(worker.slot.clone());
            runtime.spawn(worker.work());
        }
        Self { runtime, clock, outbox, slots, paused: None, cut: None, steps_clock }
    }

    /// Lets the client run for `step` of the world's time.
    pub(super) fn run(&self, step: Duration) {
        let step = step.mul_f64(self.clock.rate());
        self.runtime.block_on(async {
            tokio::time::advance(step).await;
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        });
    }

    pub(super) fn sent(&self) -> Vec<Outgoing> {
        mem::take(&mut self.outbox.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
