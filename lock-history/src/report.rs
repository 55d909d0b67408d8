//! The result of a check.

use std::{collections::HashSet, fmt};

use crate::event::{Event, EventKind, Mode};

/// A property that a history can violate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Property {
    /// Only as many guards report themselves valid at a time as their modes allow.
    Exclusion,
    /// Fencing tokens rise in the order of grants.
    TokensRise,
    /// The protected resource accepts no token that is smaller than one that it has accepted.
    NoOldWrite,
    /// No attempt is refused because of its own lock.
    OwnLockIsKnown,
    /// A waiter acquires a free lock in time.
    Obtainable,
    /// No attempt acquires a lock past a place in the queue that was there before it.
    InOrder,
    /// On an undisturbed store, no guard is told of a loss before its own end.
    KeptToTheEnd,
}

impl Property {
    /// Returns the property as one lower-case word, for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exclusion => "exclusion",
            Self::TokensRise => "tokens_rise",
            Self::NoOldWrite => "no_old_write",
            Self::OwnLockIsKnown => "own_lock_is_known",
            Self::Obtainable => "obtainable",
            Self::InOrder => "in_order",
            Self::KeptToTheEnd => "kept_to_the_end",
        }
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exclusion => "guards that exclude each other reported themselves valid at the same time",
            Self::TokensRise => "a later grant has a token that is not larger",
            Self::NoOldWrite => "the resource accepted a smaller token than one that it had accepted",
            Self::OwnLockIsKnown => "an attempt was refused because of its own lock",
            Self::Obtainable => "the lock was free, but no waiter acquired it in time",
            Self::InOrder => "an attempt acquired the lock although another one had a place before it began",
            Self::KeptToTheEnd => "a guard lost its lock before its end, although no operator broke it",
        })
    }
}

/// A violated property, with the events that prove it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The property.
    pub property: Property,
    /// The smallest part of the history that violates the property, ordered by time.
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

/// The counts of a history, and the properties that it violates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The number of locks.
    pub names: u64,
    /// The number of attempts to acquire.
    pub attempts: u64,
    /// The number of guards that reported themselves valid.
    pub acquisitions: u64,
    /// The acquisitions of a shared lock.
    pub shared: u64,
    /// The acquisitions of a permit.
    pub permits: u64,
    /// The acquisitions by an attempt that had a place in the queue of the store.
    pub queued: u64,
    /// The acquisitions from another guard; see [`hand_overs`].
    pub handed_over: u64,
    /// The number of guards that reported themselves lost.
    pub losses: u64,
    /// The number of releases.
    pub releases: u64,
    /// The number of writes that the protected resource accepted.
    pub accepted: u64,
    /// The number of writes that the protected resource refused.
    pub rejected: u64,
    /// The violations, ordered by time.
    pub violations: Vec<Violation>,
}

impl Report {
    pub(super) fn count(&mut self, events: &[&Event]) {
        self.names += 1;
        self.handed_over += hand_overs(events.iter().copied());
        let mut queued: HashSet<u64> = HashSet::new();
        for event in events {
            let counter = match event.kind {
                EventKind::Attempt { .. } => {
                    queued.remove(&event.worker);
                    &mut self.attempts
                }
                EventKind::Queued { .. } => {
                    queued.insert(event.worker);
                    continue;
                }
                EventKind::Granted { mode, .. } => {
                    self.queued += u64::from(queued.remove(&event.worker));
                    self.shared += u64::from(mode == Mode::Shared);
                    self.permits += u64::from(matches!(mode, Mode::Permit { .. }));
                    &mut self.acquisitions
                }
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

/// Returns the number of exclusive guards of one lock whose token follows that of another. Such a
/// guard has the lock from the other one.
///
/// Grants of the store are more than a microsecond apart, and so are their tokens. A store whose
/// tokens count its grants has no use for this number.
pub fn hand_overs<'a>(events: impl IntoIterator<Item = &'a Event>) -> u64 {
    let token = |event: &Event| match event.kind {
        EventKind::Granted { token, mode: Mode::Exclusive, .. } => token,
        _ => None,
    };
    let tokens: HashSet<u64> = events.into_iter().filter_map(token).collect();
    tokens.iter().filter(|token| tokens.contains(&(**token + 1))).count() as u64
}

/// The number of violations that are printed, because one cause often has a thousand of them.
const SHOWN: usize = 5;

impl fmt::Display for Report {
    /// Writes a line of counts and then the first violations with their events.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { names, attempts, acquisitions, shared, permits, queued, handed_over, .. } = self;
        let Self { losses, releases, accepted, rejected, violations, .. } = self;
        write!(
            f,
            "{acquisitions} acquisitions in {attempts} attempts on {names} names, of these {shared} shared, {permits} \
             permits, {queued} from the queue, {handed_over} handed over; {releases} released, {losses} lost; \
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
