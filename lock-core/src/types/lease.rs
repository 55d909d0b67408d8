//! Plain data about one acquisition: its id, its fencing token, its lease.

use std::{fmt, str::FromStr, time::Duration};

use crate::types::{LockName, Mode};

/// Identifies one acquisition: 128 random bits, chosen by the client before the first byte is sent.
///
/// Every operation of that acquisition carries it, so a retry that finds its own id knows that it
/// has succeeded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(u128);

impl LeaseId {
    /// Stands in a request that has not drawn its id yet.
    pub(crate) const NONE: Self = Self(0);

    /// A new random id, from the operating system's generator.
    ///
    /// A generator inside the process would repeat itself in clones of one memory image (VM
    /// snapshots, Lambda `SnapStart`).
    ///
    /// # Panics
    /// If the operating system has no random numbers to give, which Linux rules out after early
    /// boot.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("getrandom(2) cannot fail once the kernel's generator is seeded");
        Self(u128::from_le_bytes(bytes))
    }
}

impl From<u128> for LeaseId {
    fn from(bits: u128) -> Self {
        Self(bits)
    }
}

impl From<LeaseId> for u128 {
    fn from(id: LeaseId) -> Self {
        id.0
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By hand, for every request has its id as text, and `{:032x}` is slow for 128 bits.
        let mut hex = [0; 32];
        for (digits, byte) in hex.chunks_exact_mut(2).zip(self.0.to_be_bytes()) {
            for (digit, nibble) in digits.iter_mut().zip([byte >> 4, byte & 15]) {
                *digit = b"0123456789abcdef"[usize::from(nibble)];
            }
        }
        f.write_str(std::str::from_utf8(&hex).expect("digits are ASCII"))
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not the 32 lower-case hexadecimal digits of a [`LeaseId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a lease id is 32 lower-case hexadecimal digits")]
pub struct InvalidLeaseId;

impl FromStr for LeaseId {
    type Err = InvalidLeaseId;

    fn from_str(s: &str) -> Result<Self, InvalidLeaseId> {
        let canonical = s.len() == 32 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !canonical {
            return Err(InvalidLeaseId);
        }
        u128::from_str_radix(s, 16).map(Self).map_err(|_| InvalidLeaseId)
    }
}

/// A number that rises with every acquisition of a name, for the protected resource to compare.
///
/// Strictly larger than every earlier token of that name: across release, expiry, break and loss of
/// the store's data. A resource that remembers the largest token it has seen, and refuses smaller
/// ones, is safe even from a holder that was paused past its lease (Kleppmann, "How to do
/// distributed locking", 2016). Fits 2^53, so JSON and Lua keep it exact.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The largest token: 2^53 - 1, reached by the clock rule in the year 2255.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// Wraps a number that a store or a resource kept. `None` when it is larger than [`Self::MAX`].
    pub fn new(value: u64) -> Option<Self> {
        (value <= Self::MAX.0).then_some(Self(value))
    }

    /// The token that follows `previous` when the store's clock shows `store_now_micros` since the
    /// Unix epoch: `max(previous + 1, now)`, the same rule on every store.
    ///
    /// While the record of the previous token survives, the first operand keeps tokens rising; when
    /// it was lost, the second does, as long as the store's clock has not gone back. `None` when
    /// the numbers are used up, which takes a record that was tampered with.
    pub fn next(previous: Option<Self>, store_now_micros: u64) -> Option<Self> {
        Self::next_after(previous, store_now_micros, 0)
    }

    /// The token of a grant that reserves `reserved` further tokens: the last of them. The first is
    /// the [`next`](Self::next) one, so all of them are larger than `previous`.
    pub fn next_after(previous: Option<Self>, store_now_micros: u64, reserved: u32) -> Option<Self> {
        let first = previous.map_or(0, |p| p.0 + 1).max(store_now_micros);
        Self::new(first.saturating_add(reserved.into()))
    }

    /// The token that is smaller by `reserved`: the first of those that a grant reserved.
    pub(crate) fn first_of(self, reserved: u32) -> Option<Self> {
        self.0.checked_sub(reserved.into()).map(Self)
    }

    /// The next of several reserved tokens.
    pub(crate) fn following(self) -> Self {
        Self(self.0 + 1)
    }

    /// The token as a number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One acquisition as a backend sees it; what [`renew`](crate::backend::Backend::renew) and
/// [`release`](crate::backend::Backend::release) take.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// What is locked.
    pub name: LockName,
    /// Which acquisition this is.
    pub id: LeaseId,
    /// How the lock is held.
    pub mode: Mode,
    /// Its fencing token, where the backend mints them.
    pub token: Option<FencingToken>,
    /// How long the store keeps the lock without a renewal. A store without the capability `ttl`
    /// ignores it.
    pub ttl: Duration,
}

impl Lease {
    /// An exclusive lease of the default ttl, 30 s, without a token.
    pub fn new(name: LockName, id: LeaseId) -> Self {
        Self { name, id, mode: Mode::Exclusive, token: None, ttl: DEFAULT_TTL }
    }
}

setters!(Lease {
    with_name(name: LockName),
    with_id(id: LeaseId),
    with_mode(mode: Mode),
    with_token(token: impl Into<Option<FencingToken>>),
    with_ttl(ttl: Duration),
});

/// The ttl of a lock for which none is chosen.
pub(crate) const DEFAULT_TTL: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_ids_differ_and_survive_text() {
        let id = LeaseId::random();
        assert_ne!(id, LeaseId::random());
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("+0000000000000000000000000000001".parse::<LeaseId>(), Err(InvalidLeaseId));
        assert_eq!("ABCDEF00000000000000000000000000".parse::<LeaseId>(), Err(InvalidLeaseId));
    }

    #[test]
    fn tokens_rise_with_and_without_their_record() {
        let first = FencingToken::next(None, 1_000).unwrap();
        assert_eq!(first.get(), 1_000);
        assert_eq!(FencingToken::next(Some(first), 1_000).unwrap().get(), 1_001);
        assert_eq!(
            FencingToken::next(Some(first), 5).unwrap().get(),
            1_001,
            "a clock that went back does not lower it"
        );
        assert_eq!(FencingToken::next(None, 2_000).unwrap().get(), 2_000, "a lost record does not restart it");
        assert_eq!(FencingToken::next(Some(FencingToken::MAX), 0), None);
    }

    #[test]
    fn reserved_tokens_follow_the_previous_one() {
        let before = FencingToken::next(None, 1_000).unwrap();
        for now in [5, 1_000, 2_000] {
            let last = FencingToken::next_after(Some(before), now, 10).unwrap();
            assert_eq!(last.first_of(10), FencingToken::next(Some(before), now));
            assert!(last.first_of(10) > Some(before));
        }
        assert_eq!(FencingToken::next_after(None, FencingToken::MAX.get(), 1), None);
        assert_eq!(FencingToken::next_after(None, u64::MAX, 1), None);
        assert_eq!(before.first_of(1_001), None);
    }
}
