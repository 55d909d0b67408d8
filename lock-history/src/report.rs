//! What a check found.

use std::fmt;

use crate::event::{Event, EventKind};

/// A property that a history can violate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Property {
    /// At most one guard calls itself valid at a time.
    Exclusion,
    /// Tokens rise in the order of grants.
    TokensRise,
    /// The protected resource takes no token that is older than one that it has taken.
    NoOldWrite,
    /// Nobody is told that the lock is held by the very attempt that asks for it.
    OwnLockIsKnown,
    /// A lock that nobody holds is had in time by somebody who waits for it.
    Obtainable,
    /// On a store that nobody disturbs, no guard is told of a loss before it would have ended by itself.
    KeptToTheEnd,
}

impl Property {
    /// The property as one lower-case word, for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exclusion => "exclusion",
            Self::TokensRise => "tokens_rise",
            Self::NoOldWrite => "no_old_write",
            Self::OwnLockIsKnown => "own_lock_is_known",
            Self::Obtainable => "obtainable",
            Self::KeptToTheEnd => "kept_to_the_end",
        }
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exclusion => "two guards called themselves valid at once",
            Self::TokensRise => "a later grant has a token that is not larger",
            Self::NoOldWrite => "the resource took a token older than one that it had taken",
            Self::OwnLockIsKnown => "an attempt was told that it is itself the holder",
            Self::Obtainable => "nobody held the lock, somebody waited, and did not get it in time",
            Self::KeptToTheEnd => "a guard lost its lock before its end, and nobody had broken it",
        })
    }
}

/// A broken promise, with the few events that show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub property: Property,
    /// The smallest part of the history that breaks it, in the order of time.
    pub events: Vec<Event>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.property)?;
        self.events.iter().try_for_each(|event| write!(f, "\n  {event}"))
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, worker, name, kind } = self;
        write!(f, "{:.6} s  worker {worker}  \"{}\"  {kind:?}", at.as_secs_f64(), name.escape_debug())
    }
}

/// What a history contains and which promises it breaks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Locks.
    pub names: u64,
    /// Attempts to acquire.
    pub attempts: u64,
    /// Guards that called themselves valid.
    pub acquisitions: u64,
    /// Guards that called themselves lost.
    pub losses: u64,
    /// Locks given back.
    pub releases: u64,
    /// Writes that the protected resource took.
    pub accepted: u64,
    /// Writes that it refused.
    pub rejected: u64,
    /// Broken promises, in the order of time.
    pub violations: Vec<Violation>,
}

impl Report {
    pub(super) fn count(&mut self, events: &[&Event]) {
        self.names += 1;
        for event in events {
            let counter = match event.kind {
                EventKind::Attempt { .. } => &mut self.attempts,
                EventKind::Granted { .. } => &mut self.acquisitions,
                EventKind::Lost { .. } => &mut self.losses,
                EventKind::Released => &mut self.releases,
                EventKind::Accepted { .. } => &mut self.accepted,
                EventKind::Rejected { .. } => &mut self.rejected,
                EventKind::Refused { .. }
                | EventKind::GaveUp
                | EventKind::Valid { .. }
                | EventKind::Died
                | EventKind::Stopped
                | EventKind::Resumed => continue,
            };
            *counter += 1;
        }
    }

    pub(super) fn found(&mut self, property: Property, events: &[&Event]) {
        self.violations.push(Violation { property, events: events.iter().map(|&event| event.clone()).collect() });
    }
}

/// One cause often breaks a promise a thousand times.
const SHOWN: usize = 5;

impl fmt::Display for Report {
    /// A line of counts and, for each of the first violations, the part of the history that shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { names, attempts, acquisitions, losses, releases, accepted, rejected, violations } = self;
        write!(
            f,
            "{acquisitions} acquisitions in {attempts} attempts on {names} names; {releases} released, {losses} lost; \
             writes: {accepted} accepted, {rejected} refused; {} violations",
            violations.len()
        )?;
        violations.iter().take(SHOWN).try_for_each(|violation| write!(f, "\n{violation}"))?;
        match violations.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}
