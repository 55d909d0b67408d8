//! The mistakes that a simulation brings back.

use std::{fmt, str::FromStr};

use lock_history::Property;

/// A classic mistake of lock libraries, which the simulation must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// The validity of a lease counts from the store's reply instead of from the request.
    ValidityFromReply,
    /// A release deletes the record, even if it belongs to another holder.
    ReleaseWithoutComparison,
    /// A takeover from a holder that seemed dead overwrites the current record without a
    /// comparison.
    TakeoverWithoutVersion,
    /// The fencing counter lives in the record that a release deletes.
    TokenInDeletedRecord,
    /// A retry whose first request was granted takes its own lock for that of another client.
    OwnLockTakenForForeign,
    /// The store grants a free lock to the first that asks, and not to the first in its queue.
    IgnoresQueue,
    /// The store takes a writer for one of the readers.
    WriterAmongReaders,
    /// The store grants one permit more than there are.
    OnePermitMore,
    /// The release of one of several holders ends the parts of all.
    ReleaseOfAllParts,
    /// The store reserves no tokens for the hand-overs of a grant.
    ReservesNoTokens,
}

impl Mistake {
    /// Returns the properties that the mistake breaks directly. The violation of another one may
    /// only follow from what this mistake has disturbed, and does not show that it is found.
    pub fn properties(self) -> &'static [Property] {
        match self {
            Self::ValidityFromReply
            | Self::ReleaseWithoutComparison
            | Self::TakeoverWithoutVersion
            | Self::WriterAmongReaders
            | Self::OnePermitMore
            | Self::ReleaseOfAllParts => &[Property::Exclusion],
            Self::TokenInDeletedRecord | Self::ReservesNoTokens => &[Property::TokensRise],
            Self::OwnLockTakenForForeign => &[Property::OwnLockIsKnown],
            Self::IgnoresQueue => &[Property::InOrder],
        }
    }

    pub(super) fn breaks(self, property: Property) -> bool {
        self.properties().contains(&property)
    }

    /// Returns whether the mistake shows only among shared locks and permits.
    pub(super) fn needs_modes(self) -> bool {
        matches!(self, Self::WriterAmongReaders | Self::OnePermitMore | Self::ReleaseOfAllParts)
    }

    /// Returns whether the mistake shows only in a queue.
    pub(super) fn needs_queue(self) -> bool {
        self == Self::IgnoresQueue
    }

    /// The mistakes that every store can make.
    pub const ALL: [Self; 5] = [
        Self::ValidityFromReply,
        Self::ReleaseWithoutComparison,
        Self::TakeoverWithoutVersion,
        Self::TokenInDeletedRecord,
        Self::OwnLockTakenForForeign,
    ];

    /// The mistakes that a store with all modes, a queue and hand-overs can make.
    pub const OF_MODES: [Self; 8] = [
        Self::ValidityFromReply,
        Self::ReleaseWithoutComparison,
        Self::OwnLockTakenForForeign,
        Self::IgnoresQueue,
        Self::WriterAmongReaders,
        Self::OnePermitMore,
        Self::ReleaseOfAllParts,
        Self::ReservesNoTokens,
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
        let mut all = Self::ALL.into_iter().chain(Self::OF_MODES);
        let found = all.find(|mistake| mistake.to_string() == text);
        let known = || format!("unknown mistake {text}; see --list-mistakes and --memory --list-mistakes");
        found.ok_or_else(known)
    }
}
