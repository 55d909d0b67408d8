//! A client process: a runtime with timers of its own, the real core in it, and a backend that
//! talks through the simulated network.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use lock_core::{
    Error, LockName, Locker,
    backend::{AcquireOutcome, AcquireRequest, Backend, Capabilities, Lease, Release, Renewal, StoreTimings},
    clock::{Clock, ClockReading},
};
use tokio::runtime::{Builder, Runtime};

use super::{
    Mistake,
    clock::SimClock,
    network::{ReplyTo, Write},
    store::{Kind, Reply, Request},
    subject::Subject,
    worker::{Slot, Worker},
};

/// What a client has to say to the world.
#[derive(Debug)]
pub(super) enum Outgoing {
    Request(Request, ReplyTo),
    Write(Write),
}

/// Messages that a client has sent since the world last looked.
pub(super) type Outbox = Arc<Mutex<Vec<Outgoing>>>;

pub(super) fn send(outbox: &Outbox, message: Outgoing) {
    outbox.lock().unwrap_or_else(PoisonError::into_inner).push(message);
}

/// A client's end of the network.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    mistake: Option<Mistake>,
    outbox: Outbox,
    clock: Arc<SimClock>,
}

impl Wire {
    pub(super) async fn ask(&self, request: Request) -> Reply {
        let sent = self.clock.now();
        let (reply_to, reply) = ReplyTo::new();
        send(&self.outbox, Outgoing::Request(request, reply_to));
        let Ok(reply) = reply.await else { return std::future::pending().await };
        if self.mistake == Some(Mistake::ValidityFromReply) {
            self.clock.forget(self.clock.now().since(sent));
        }
        reply
    }
}

/// The client's side of the model store's protocol.
#[derive(Debug)]
pub(super) struct SimBackend {
    kind: Kind,
    wire: Wire,
    /// Each record's version, its holder's ttl, and since when it has been so by the client's
    /// clock.
    observed: Mutex<HashMap<LockName, (u64, Duration, ClockReading)>>,
}

impl SimBackend {
    pub(super) fn new(kind: Kind, wire: Wire) -> Self {
        Self { kind, wire, observed: Mutex::default() }
    }

    /// The version of the record that has stood still for its holder's whole ttl.
    fn dead(&self, name: &LockName) -> Option<u64> {
        let observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let (version, ttl, since) = observed.get(name)?;
        (elapsed(*since, self.wire.clock.now()) > *ttl).then_some(*version)
    }

    /// Notes what a refusal shows. Time counts from after the reply: before, the record may have
    /// been another.
    fn observe(&self, name: &LockName, holder: &mut lock_core::Holder) {
        let version = holder.version.as_ref().and_then(|version| version.parse().ok()).expect("the model gives one");
        let ttl = holder.expires_in.expect("the model gives it");
        let now = self.wire.clock.now();
        let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = observed.entry(name.clone()).or_insert((version, ttl, now));
        if known.0 != version {
            *known = (version, ttl, now);
        }
        holder.expires_in = Some((ttl + Duration::from_millis(1)).saturating_sub(elapsed(known.2, now)));
    }
}

/// Not [`ClockReading::since`]: a client that waits for another lease to end must not be hurried by
/// a wall clock that is set forward.
fn elapsed(from: ClockReading, to: ClockReading) -> Duration {
    to.boot.saturating_sub(from.boot)
}

#[async_trait]
impl Backend for SimBackend {
    fn describe(&self) -> String {
        "simulated:".into()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().with_ttl(true).with_fencing(true).with_loss_signal(true).with_holder(true)
    }

    fn timings(&self) -> StoreTimings {
        StoreTimings::default()
    }

    async fn acquire(&self, claim: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        let dead = match self.kind {
            Kind::Clocked => None,
            Kind::Observed => self.dead(&claim.name),
        };
        match self.wire.ask(Request::Acquire { claim: claim.clone(), dead }).await {
            Reply::Attempt(AcquireOutcome::Contended(mut holder)) => {
                if self.kind == Kind::Observed {
                    self.observe(&claim.name, &mut holder);
                }
                Ok(AcquireOutcome::Contended(holder))
            }
            Reply::Attempt(granted) => Ok(granted),
            other => unreachable!("the store answers what it was asked: {other:?}"),
        }
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        match self.wire.ask(Request::Renew(lease.clone())).await {
            Reply::Renewal(answer) => Ok(answer),
            other => unreachable!("the store answers what it was asked: {other:?}"),
        }
    }

    async fn release(&self, lease: &Lease, _hold_for: Duration) -> Result<Release, Error> {
        match self.wire.ask(Request::Release(lease.clone())).await {
            Reply::Release(answer) => Ok(answer),
            other => unreachable!("the store answers what it was asked: {other:?}"),
        }
    }
}

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
