//! A deterministic simulation of the real core over a model of a lease store, or of a [`Real`]
//! backend over a model of its server. Clients are frozen, suspended, killed and cut off.
//!
//! Each client is a separate tokio runtime with a paused clock. So the timers of a stopped client
//! stop too, while the store and the other clients continue. One seed decides everything that the
//! simulation decides, and the checker of [`lock_history`] is the oracle. [`Mistake`] brings back
//! classic mistakes, and the tests count the seeds that find each of them, by a violation of the
//! property that the mistake breaks.
//!
//! # Assumptions
//! - The clocks of a client run at a rate within 3 % of the store's.
//! - After a pause of a virtual machine, its wall clock includes the pause, and is not set back
//!   within a ttl.
//! - The store keeps its data.

mod client;
mod clock;
mod command;
mod memory_store;
mod messages;
mod mistake;
mod network;
pub mod real;
mod sim_backend;
mod store;
mod subject;
pub mod trial;
mod wire;
mod worker;
mod world;

use std::{
    fmt,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use lock_history::{EventKind, Report, Violation};
use serde_json::{Value, json};

use self::real::Real;
pub use self::{command::command, mistake::Mistake};

/// The faults of the clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Clients killed.
    pub kills: u64,
    /// Clients frozen, and machines suspended or paused.
    pub pauses: u64,
    /// Clients cut off from the store, in one direction or in both.
    pub cuts: u64,
    /// Wall clocks that were set.
    pub clock_steps: u64,
    /// Messages lost, repeated or delayed by up to seconds.
    pub messages: u64,
}

/// The store of a simulation.
#[derive(Debug, Clone, Copy)]
pub enum On<'a> {
    /// A model of a lease store, with exclusive locks.
    Model,
    /// The memory backend, with all modes and a queue of fair requests.
    Memory,
    /// A real backend over a model of its server.
    Real(&'a dyn Real),
}

/// The model, or a real backend.
impl<'a, R: Real> From<Option<&'a R>> for On<'a> {
    fn from(real: Option<&'a R>) -> Self {
        real.map_or(Self::Model, |real| Self::Real(real))
    }
}

/// Runs the simulation of `seed`.
pub fn simulate(seed: u64, mistake: Option<Mistake>, on: On<'_>) -> (Report, Faults) {
    world::World::new(seed, mistake, on).run()
}

/// Runs the simulation of `seed`, and returns a hash of its history: of every event and its time.
///
/// The hash depends only on the code and the seed, and not on the build, the machine or the run.
/// Only lease ids differ between runs, because the core draws them from the system. The hash leaves
/// them out. On the memory backend the tokens differ too, because they come from the clock of the
/// system.
pub fn fingerprint(seed: u64, mistake: Option<Mistake>, on: On<'_>) -> u64 {
    let (mut events, _) = world::World::new(seed, mistake, on).play();
    for event in &mut events {
        if let EventKind::Refused { owner: Some(owner) } = &mut event.kind {
            owner.truncate(owner.find(", ").unwrap_or(owner.len()));
        }
    }
    // FNV-1a, because the hash of the standard library may change with its version.
    let lines = events.iter().map(|event| format!("{event:?}\n"));
    lines.fold(0xcbf2_9ce4_8422_2325, |hash, line| {
        line.bytes().fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    })
}

/// The results of many simulations.
#[derive(Debug, Default)]
pub struct Found {
    /// The number of simulations.
    pub seeds: u64,
    /// Acquisitions in all of them.
    pub acquisitions: u64,
    /// Of these, those of a shared lock or a permit.
    pub joined: u64,
    /// Of these, those of an attempt that had a place in the queue.
    pub queued: u64,
    /// Of these, those from another guard of the process.
    pub handed_over: u64,
    /// Losses in all of them, as a measure of the effect of the faults.
    pub losses: u64,
    /// The faults of the clients in all of them.
    pub faults: Faults,
    /// The seeds that broke a promise, with the first violation of each. With a mistake, only a
    /// violation of one of its [properties](Mistake::properties) counts.
    pub violations: Vec<(u64, Violation)>,
}

impl Found {
    fn add(&mut self, part: Self) {
        self.seeds += part.seeds;
        self.acquisitions += part.acquisitions;
        self.joined += part.joined;
        self.queued += part.queued;
        self.handed_over += part.handed_over;
        self.losses += part.losses;
        self.faults.kills += part.faults.kills;
        self.faults.pauses += part.faults.pauses;
        self.faults.cuts += part.faults.cuts;
        self.faults.clock_steps += part.faults.clock_steps;
        self.faults.messages += part.faults.messages;
        self.violations.extend(part.violations);
    }
}

impl Found {
    /// Returns the report as JSON; `violations` is the number of seeds with a violation.
    pub fn json(&self) -> Value {
        let Self { seeds, acquisitions, joined, queued, handed_over, losses, faults, violations } = self;
        let first = violations.first().map(|(seed, violation)| format!("seed {seed}: {violation}"));
        json!({
            "seeds": seeds,
            "acquisitions": acquisitions,
            "joined": joined,
            "queued": queued,
            "handed_over": handed_over,
            "lost": losses,
            "killed": faults.kills,
            "frozen": faults.pauses,
            "cut_off": faults.cuts,
            "clocks_set": faults.clock_steps,
            "messages": faults.messages,
            "violations": violations.len(),
            "first_violation": first,
        })
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, acquisitions, joined, queued, handed_over, losses, faults, violations } = self;
        let Faults { kills, pauses, cuts, clock_steps, messages } = faults;
        writeln!(
            f,
            "{seeds} seeds, {acquisitions} acquisitions, of these {joined} shared or permits, {queued} from the queue, \
             {handed_over} handed over; {losses} losses; {kills} clients killed, {pauses} frozen, {cuts} cut off, \
             {clock_steps} clocks set, {messages} messages lost, repeated or late"
        )?;
        write!(f, "violations in {} seeds", violations.len())?;
        violations.iter().take(3).try_for_each(|(seed, violation)| write!(f, "\nseed {seed}: {violation}"))
    }
}

/// Runs all `seeds`, on all processors.
///
/// # Panics
/// If a simulation panics.
pub fn search<'a>(seeds: Range<u64>, mistake: Option<Mistake>, on: impl Into<On<'a>>) -> Found {
    let on = on.into();
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut found = Found::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return found;
            }
            let (report, faults) = simulate(seed, mistake, on);
            let Report { acquisitions, shared, permits, queued, handed_over, losses, violations, .. } = report;
            let counts = |violation: &Violation| mistake.is_none_or(|mistake| mistake.breaks(violation.property));
            let first = violations.into_iter().find(counts);
            let violations = first.map(|violation| (seed, violation)).into_iter().collect();
            let joined = shared + permits;
            found.add(Found { seeds: 1, acquisitions, joined, queued, handed_over, losses, faults, violations });
        }
    };
    let mut all = Found::default();
    thread::scope(|scope| {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            all.add(thread.join().expect("no simulation panics"));
        }
    });
    all.violations.sort_by_key(|(seed, _)| *seed);
    all
}
