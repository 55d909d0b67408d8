//! Numbers the requests of this process, so that a server can tell their order.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

/// The smallest number of 16 digits: in microseconds, September 2001. The 17th digit follows in
/// 2286.
const FIRST: u64 = 1_000_000_000_000_000;

/// The stamps of one process on one server.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    last: AtomicU64,
}

impl Stamps {
    /// Returns a number of 16 digits that rises with every request of this process, and roughly
    /// with time across processes.
    ///
    /// The server compares the stamps of one id to detect an acquire that arrives after its
    /// release.
    pub(crate) fn next(&self) -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let next = |last| after(last, now);
        let previous = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        next(previous.unwrap_or_default())
    }
}

fn after(last: u64, now_micros: u64) -> u64 {
    now_micros.clamp(FIRST, 9 * FIRST).max(last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_rise_and_have_16_digits_at_any_clock_reading() {
        for now in [0, FIRST - 1, FIRST, 1_800_000_000_000_000, 10 * FIRST, u64::MAX] {
            let first = after(0, now);
            let second = after(first, now - now / 2);
            assert!(second > first);
            assert_eq!((first.to_string().len(), second.to_string().len()), (16, 16), "at {now}");
        }
    }
}
