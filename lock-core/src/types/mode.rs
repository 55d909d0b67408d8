//! How a lock is held.

use std::{fmt, num::NonZeroU16};

/// How a lock is held: by one holder, by many readers, or by a number of permits.
///
/// All holders of a name at one time hold it in the same mode. A request in another mode is
/// refused until they have released it. While such a request waits, the store refuses newcomers in
/// the mode of the holders, so readers that come later do not starve a writer.
///
/// Stores differ in the modes that they support; see
/// [`Capabilities`](crate::backend::Capabilities).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Mode {
    /// One holder, and no other of any mode.
    #[default]
    Exclusive,
    /// Any number of holders, and none of another mode: the readers of a readers-writer lock.
    Shared,
    /// At most `of` holders, and none of another mode.
    Permit {
        /// How many permits the name has. All contenders have to agree: a request that states
        /// another number than the present holders is an error.
        of: NonZeroU16,
    },
}

impl Mode {
    /// Returns whether a lock in this mode may have more than one holder.
    pub fn may_be_joined(self) -> bool {
        self != Self::Exclusive
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exclusive => f.write_str("exclusive"),
            Self::Shared => f.write_str("shared"),
            Self::Permit { of } => write!(f, "one of {of} permits"),
        }
    }
}
