//! The world: true time, the store, the network, the clients, and their faults.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use lock_history::{Checks, Event, EventKind, Property, Report, check};

use super::{
    Faults, Mistake, On,
    client::{Client, Pause},
    clock::{SimClock, WorldTime},
    messages::Write,
    network::{Message, Network, Weather},
    subject::Subject,
    wire::Outgoing,
    worker::{Journal, Load, Slot, Worker},
};

/// The resolution of the clients' timers; the store sees its requests at the exact time.
const STEP: Duration = Duration::from_millis(10);
const STORMY: Duration = Duration::from_secs(40);
/// The time without faults at the end, in which every lock must become obtainable.
const CALM: Duration = Duration::from_secs(14);
/// The bound during the storm. Late requests of abandoned acquisitions take the lock for no client,
/// one after the other.
const OBTAINABLE_IN_STORM: Duration = Duration::from_secs(25);
/// The time from which no message of the storm is in transit.
const SETTLED: Duration = Duration::from_secs(STORMY.as_secs() + 4);
/// The bound in the calm: the longest ttl of a dead holder, the longest pause of a waiter, and a
/// second for requests and drift.
const OBTAINABLE: Duration = Duration::from_secs(5);
/// The largest error in the rate of a client's clocks.
const DRIFT: f64 = 0.03;
/// The largest initial error of the wall clock of a real backend's client, in seconds. It exceeds
/// most skew bounds.
const WRONG_BY: f64 = 3.0;

pub(super) struct World<'a> {
    rng: fastrand::Rng,
    mistake: Option<Mistake>,
    time: WorldTime,
    journal: Journal,
    looked_at: usize,
    subject: Subject<'a>,
    load: Load,
    /// The largest token that each protected resource has seen.
    resource: HashMap<Arc<str>, u64>,
    network: Network,
    weather: Weather,
    /// The chance that a real server fails.
    failing: f64,
    clients: Vec<Option<Client>>,
    names: Vec<Arc<str>>,
    workers: u64,
    /// The chance that a client has a fault in a step.
    trouble: f64,
    faults: Faults,
}

impl<'a> World<'a> {
    pub(super) fn new(seed: u64, mistake: Option<Mistake>, on: On<'a>) -> Self {
        // The core takes its jitter from this generator.
        fastrand::seed(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let subject = match on {
            On::Model => Subject::model(mistake, &mut rng),
            On::Memory => Subject::memory(mistake),
            On::Real(real) => Subject::real(real, seed, mistake),
        };
        let load = subject.load(mistake, &mut rng);
        let time = WorldTime::default();
        let clients = rng.usize(2..6);
        Self {
            mistake,
            journal: Journal { time: time.clone(), events: Arc::default() },
            time,
            looked_at: 0,
            failing: if subject.is_real() && rng.bool() { 0.1 * rng.f64() } else { 0.0 },
            subject,
            load,
            resource: HashMap::new(),
            network: Network::default(),
            weather: Weather::random(&mut rng),
            clients: (0..clients).map(|_| None).collect(),
            names: (0..rng.usize(1..4)).map(|name| format!("name-{name}").into()).collect(),
            workers: 0,
            trouble: if rng.u8(..8) == 0 { 0.0 } else { 0.004 * rng.f64() },
            faults: Faults::default(),
            rng,
        }
    }

    pub(super) fn run(self) -> (Report, Faults) {
        let slack = self.subject.slack();
        let (events, faults) = self.play();
        (judge(&events, slack), faults)
    }

    /// Returns the history and the faults.
    pub(super) fn play(mut self) -> (Vec<Event>, Faults) {
        while self.time.now() < STORMY {
            self.befall();
            self.step();
        }
        self.trouble = 0.0;
        self.weather = Weather::calm();
        self.failing = 0.0;
        while self.time.now() < STORMY + CALM {
            self.befall();
            self.step();
        }
        let faults = Faults { messages: self.network.disturbed, ..self.faults };
        for index in 0..self.clients.len() {
            self.kill(index);
        }
        let events = std::mem::take(&mut *self.journal.events.lock().unwrap_or_else(PoisonError::into_inner));
        (events, faults)
    }

    fn step(&mut self) {
        self.time.advance(STEP);
        while let Some((at, message)) = self.network.arrived(self.time.now()) {
            self.deliver(at, message);
        }
        for index in 0..self.clients.len() {
            let Some(client) = self.clients[index].as_ref().filter(|client| client.paused.is_none()) else { continue };
            client.run(STEP);
            self.post(index);
        }
        self.look();
    }

    /// Moves the messages of a client to the network.
    fn post(&mut self, index: usize) {
        let Some(client) = &self.clients[index] else { return };
        let cut = client.cut.is_some_and(|(requests, _, _)| requests);
        for outgoing in client.sent() {
            let message = match outgoing {
                Outgoing::Request(..) if cut => continue,
                Outgoing::Request(request, reply_to) => Message::Request { client: index, request, reply_to },
                Outgoing::Write(write) => Message::Write(write),
            };
            self.network.send(self.time.now(), &message, &self.weather, &mut self.rng);
        }
    }

    fn deliver(&mut self, at: Duration, message: Message) {
        match message {
            Message::Request { client, request, reply_to } => {
                let reply = self.subject.handle(at, &request, self.failing, &mut self.rng);
                let places = self.subject.places(at, &request, &reply);
                self.journal.events.lock().unwrap_or_else(PoisonError::into_inner).extend(places);
                let cut = self.clients[client].as_ref().and_then(|client| client.cut);
                if !cut.is_some_and(|(_, replies, _)| replies) {
                    self.network.send(at, &Message::Reply { reply, reply_to }, &self.weather, &mut self.rng);
                }
            }
            Message::Reply { reply, reply_to } => reply_to.give(reply),
            Message::Write(Write { worker, name, token }) => {
                let largest = self.resource.entry(Arc::clone(&name)).or_insert(token);
                let accepted = token >= *largest;
                *largest = token.max(*largest);
                self.journal.note(
                    worker,
                    &name,
                    if accepted { EventKind::Accepted { token } } else { EventKind::Rejected { token } },
                );
            }
        }
    }

    /// Checks at each new grant whether another worker has a valid guard for the same lock.
    ///
    /// Stopped workers are checked too, because they will act on that guard when they continue.
    fn look(&mut self) {
        let mut events = self.journal.events.lock().unwrap_or_else(PoisonError::into_inner);
        let granted = |event: &Event| matches!(event.kind, EventKind::Granted { .. });
        let grants: Vec<Event> = events[self.looked_at..].iter().filter(|event| granted(event)).cloned().collect();
        for grant in grants {
            for slot in self.clients.iter().flatten().flat_map(|client| &client.slots) {
                if slot.worker != grant.worker && slot.believes().is_some_and(|name| name == grant.name) {
                    let until = Some(grant.at + Duration::from_nanos(1));
                    events.push(Event { worker: slot.worker, kind: EventKind::Valid { until }, ..grant.clone() });
                }
            }
        }
        self.looked_at = events.len();
    }

    /// Begins and ends the faults of clients.
    fn befall(&mut self) {
        for index in 0..self.clients.len() {
            match &self.clients[index] {
                None if self.trouble > 0.0 && self.rng.u8(..100) > 0 => {}
                None => self.start(index),
                Some(_) => {
                    self.recover(index);
                    if self.rng.f64() < self.trouble {
                        self.strike(index);
                    }
                }
            }
        }
    }

    fn start(&mut self, index: usize) {
        let rate = 1.0 + DRIFT * (2.0 * self.rng.f64() - 1.0);
        let clock = SimClock::new(self.time.clone(), rate);
        if self.subject.is_real() && self.rng.bool() {
            // This affects more than the time of the client: it compares its clock with the
            // store's.
            clock.step_wall(2.0 * WRONG_BY * (self.rng.f64() - 0.5));
        }
        let workers = 1 + u64::from(self.rng.u8(..4) == 0);
        let first = self.workers;
        self.workers += workers;
        let (seed, steps_clock) = (self.rng.u64(..), self.rng.bool());
        let client = Client::start(&self.subject, self.mistake, clock, steps_clock, |locker, outbox| {
            let worker = |id| Worker {
                slot: Slot::new(id),
                locker: locker.clone(),
                names: self.names.clone(),
                journal: self.journal.clone(),
                outbox: Arc::clone(outbox),
                rng: fastrand::Rng::with_seed(seed ^ id),
                load: self.load,
            };
            (first..first + workers).map(worker).collect()
        });
        self.clients[index] = Some(client);
    }

    fn note_all(&self, client: &Client, what: &EventKind) {
        for slot in &client.slots {
            for name in &self.names {
                self.journal.note(slot.worker, name, what.clone());
            }
        }
    }

    fn kill(&mut self, index: usize) {
        let Some(client) = self.clients[index].take() else { return };
        self.note_all(&client, &EventKind::Died);
        // Messages that the guards send while they are dropped stay in the outbox.
        drop(client);
    }

    fn strike(&mut self, index: usize) {
        let what = self.rng.u8(..10);
        let until = self.time.now() + Duration::from_millis(self.rng.u64(10..5_000));
        let now = self.time.now();
        if what == 0 {
            self.faults.kills += 1;
            return self.kill(index);
        }
        let (to, from) = [(true, true), (true, false), (false, true)][self.rng.usize(..3)];
        let pause = [Pause::Frozen, Pause::Suspended, Pause::Thawed][self.rng.usize(..3)];
        let step = 20.0 * (self.rng.f64() - 0.5);
        let Some(client) = self.clients[index].as_mut() else { return };
        match what {
            1..=4 if client.cut.is_none() => {
                self.faults.cuts += 1;
                client.cut = Some((to, from, until));
            }
            5..=7 if client.paused.is_none() => {
                let pause = if client.steps_clock && pause == Pause::Thawed { Pause::Frozen } else { pause };
                self.faults.pauses += 1;
                client.paused = Some((pause, now, until));
            }
            8..=9 if client.steps_clock => {
                self.faults.clock_steps += 1;
                client.clock.step_wall(step);
                return;
            }
            _ => return,
        }
        let client = self.clients[index].as_ref().expect("the client exists");
        self.note_all(client, &EventKind::Stopped);
    }

    fn recover(&mut self, index: usize) {
        let (now, calm) = (self.time.now(), self.trouble == 0.0);
        let Some(client) = self.clients[index].as_mut() else { return };
        let mut resumed = false;
        if client.cut.is_some_and(|(_, _, until)| calm || now >= until) {
            client.cut = None;
            resumed = true;
        }
        if let Some((pause, since, _)) = client.paused.filter(|(_, _, until)| calm || now >= *until) {
            client.paused = None;
            resumed = true;
            match pause {
                Pause::Frozen => client.run(now - since),
                Pause::Suspended => {}
                Pause::Thawed => client.clock.boot_missed(now - since),
            }
        }
        if resumed && client.cut.is_none() && client.paused.is_none() {
            let client = self.clients[index].as_ref().expect("the client exists");
            self.note_all(client, &EventKind::Resumed);
        }
    }
}

/// Checks the history. Exclusion depends on the guards at each grant, and liveness on the times at
/// which workers release or give up.
fn judge(events: &[Event], slack: Duration) -> Report {
    let mut report = check(events, &Checks::default());
    let until_noted = |event: &Event| match event.kind {
        EventKind::Valid { .. } => None,
        EventKind::Granted { token, mode, .. } => {
            Some(Event { kind: EventKind::Granted { token, until: None, mode }, ..event.clone() })
        }
        _ => Some(event.clone()),
    };
    let noted: Vec<Event> = events.iter().filter_map(until_noted).collect();
    // Treats all earlier events as if they had happened at that time.
    let settled: Vec<Event> = noted.iter().map(|event| Event { at: event.at.max(SETTLED), ..event.clone() }).collect();
    for (events, bound) in [(noted, OBTAINABLE_IN_STORM + slack), (settled, OBTAINABLE + slack)] {
        let late = check(&events, &Checks { obtainable_within: Some(bound), ..Checks::default() }).violations;
        report.violations.extend(late.into_iter().filter(|violation| violation.property == Property::Obtainable));
    }
    report
}
