//! A deterministic simulation: the real core, on clients that are frozen, suspended, killed and cut
//! off, over a model of a lease store; or a [`Real`] backend, over a model of its server.
//!
//! Each client is a tokio runtime of its own with a paused clock, so that a client that does not
//! run does not run, timers included, while the store and the others go on. One seed decides
//! everything that the simulation decides; the checker of [`lock_history`] is the oracle. It
//! can see: [`Mistake`] brings back the classic ones, and the tests count the seeds in which each
//! is found.
//!
//! What is assumed, and no more: a client's clocks run at a rate within 3 % of the store's; a pause
//! of a virtual machine shows in its wall clock by the time it runs again, and nobody sets that
//! clock back within a ttl of it; the store keeps its data.

mod client;
mod clock;
mod command;
mod network;
pub mod real;
mod store;
mod subject;
pub mod trial;
mod worker;
mod world;

use std::{
    fmt,
    ops::Range,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use lock_history::{Report, Violation};
use serde_json::{Value, json};

pub use self::command::command;
use self::real::Real;

/// A classic mistake of lock libraries, brought back for the simulation to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// A lease counts from the moment in which the store's reply came, not from that in which the
    /// request was sent.
    ValidityFromReply,
    /// A release deletes the record, whoever's it is by now.
    ReleaseWithoutComparison,
    /// A takeover of a holder that seemed dead writes over whatever is there by now.
    TakeoverWithoutVersion,
    /// The fencing counter lives in the record that a release deletes.
    TokenInDeletedRecord,
    /// A retry whose first request had been granted takes its own lock for somebody else's.
    OwnLockTakenForForeign,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::ValidityFromReply,
        Self::ReleaseWithoutComparison,
        Self::TakeoverWithoutVersion,
        Self::TokenInDeletedRecord,
        Self::OwnLockTakenForForeign,
    ];
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for Mistake {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|mistake| mistake.to_string() == text);
        found.ok_or_else(|| format!("there is no mistake {text}; there are: {:?}", Self::ALL))
    }
}

/// What befell the clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Clients killed.
    pub kills: u64,
    /// Clients frozen, and machines suspended or paused.
    pub pauses: u64,
    /// Clients cut off from the store, in one direction or both.
    pub cuts: u64,
    /// Wall clocks set.
    pub clock_steps: u64,
    /// Messages lost, repeated or late by up to seconds.
    pub messages: u64,
}

/// Runs the simulation that `seed` stands for: of `real`, or of the core over a model of a store.
pub fn simulate(seed: u64, mistake: Option<Mistake>, real: Option<&dyn Real>) -> (Report, Faults) {
    world::World::new(seed, mistake, real).run()
}

/// What many simulations found.
#[derive(Debug, Default)]
pub struct Found {
    /// How many ran.
    pub seeds: u64,
    /// Acquisitions in all of them.
    pub acquisitions: u64,
    /// Losses in all of them: how much the faults hurt.
    pub losses: u64,
    /// What befell the clients in all of them.
    pub faults: Faults,
    /// The seeds that broke a promise, with the first that each broke.
    pub violations: Vec<(u64, Violation)>,
}

impl Found {
    fn add(&mut self, part: Self) {
        self.seeds += part.seeds;
        self.acquisitions += part.acquisitions;
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
    /// For programs; `violations` is the number of seeds in which there is one.
    pub fn json(&self) -> Value {
        let Self { seeds, acquisitions, losses, faults, violations } = self;
        let first = violations.first().map(|(seed, violation)| format!("seed {seed}: {violation}"));
        json!({
            "seeds": seeds,
            "acquisitions": acquisitions,
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
        let Self { seeds, acquisitions, losses, faults, violations } = self;
        let Faults { kills, pauses, cuts, clock_steps, messages } = faults;
        writeln!(
            f,
            "{seeds} seeds, {acquisitions} acquisitions, {losses} losses; {kills} clients killed, {pauses} frozen, {cuts} cut off, \
             {clock_steps} clocks set, {messages} messages lost, repeated or late"
        )?;
        write!(f, "violations in {} seeds", violations.len())?;
        violations.iter().take(3).try_for_each(|(seed, violation)| write!(f, "\nseed {seed}: {violation}"))
    }
}

/// Runs all `seeds`, on all processors.
///
/// # Panics
/// When a simulation does.
pub fn search(seeds: Range<u64>, mistake: Option<Mistake>, real: Option<&dyn Real>) -> Found {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut found = Found::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return found;
            }
            let (report, faults) = simulate(seed, mistake, real);
            let violations =
                report.violations.into_iter().next().map(|violation| (seed, violation)).into_iter().collect();
            let Report { acquisitions, losses, .. } = report;
            found.add(Found { seeds: 1, acquisitions, losses, faults, violations });
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
