//! Who holds a lock, as far as the store can say.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use crate::types::FencingToken;

/// Who holds a lock, since when, until when: all that the store's record says.
///
/// Every field is optional, because the holder may be a foreign client that records less, or
/// nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The holder's name for itself; see [`owner`](crate::LockRequest::owner).
    pub owner: Option<String>,
    /// The holder's fencing token.
    pub token: Option<FencingToken>,
    /// When it acquired the lock, by the store's clock where the store has one.
    pub since: Option<SystemTime>,
    /// How long the store will keep the lock unless it is renewed, by the store's clock when it
    /// answered. `None` when the lock does not expire by itself or the store does not say.
    pub expires_in: Option<Duration>,
    /// What the holder left for others to read.
    pub data: Option<Vec<u8>>,
    /// Identifies this state of the record, for [`break_lock`](crate::backend::Admin::break_lock):
    /// changes at least with every acquisition. `None` when the lock cannot be broken.
    pub version: Option<String>,
    /// What kind of foreign lock this is, when it is not one of ours: "a Redis hash (Redisson)", "a
    /// flock(2) holder without a record".
    pub foreign: Option<String>,
}

setters!(Holder {
    with_owner(owner: impl Into<Option<String>>),
    with_token(token: impl Into<Option<FencingToken>>),
    with_since(since: impl Into<Option<SystemTime>>),
    with_expires_in(expires_in: impl Into<Option<Duration>>),
    with_data(data: impl Into<Option<Vec<u8>>>),
    with_version(version: impl Into<Option<String>>),
    with_foreign(foreign: impl Into<Option<String>>),
});

impl fmt::Display for Holder {
    /// One line: `etl-7:4711-x3 for 42 s, token 1732, expires in 12 s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.owner, &self.foreign) {
            (Some(owner), _) => write!(f, "{}", owner.escape_debug())?,
            (None, Some(kind)) => write!(f, "{kind}")?,
            (None, None) => write!(f, "an unknown holder")?,
        }
        if let Some(held_for) = self.since.and_then(|since| SystemTime::now().duration_since(since).ok()) {
            write!(f, " for {} s", held_for.as_secs())?;
        }
        if let Some(token) = self.token {
            write!(f, ", token {token}")?;
        }
        if let Some(left) = self.expires_in {
            write!(f, ", expires in {} s", left.as_secs_f64().ceil())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_shown_in_one_line_with_what_is_known() {
        assert_eq!(Holder::default().to_string(), "an unknown holder");
        let holder = Holder {
            owner: Some("etl:1\n".into()),
            token: FencingToken::new(7),
            expires_in: Some(Duration::from_millis(11_200)),
            ..Holder::default()
        };
        assert_eq!(holder.to_string(), "etl:1\\n, token 7, expires in 12 s");
    }
}
