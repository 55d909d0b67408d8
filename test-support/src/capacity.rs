//! The provisioned capacity of a table of DynamoDB, for the proxy in front of a server that has
//! none.

use std::time::Instant;

/// The requests that DynamoDB would bill and refuse, so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Units {
    /// Write units of the requests that were let through: one for each.
    pub written: u32,
    /// Read units of the requests that were let through: one for each, which is the price of a
    /// strongly consistent read.
    pub read: u32,
    /// Requests that were throttled. They are not billed.
    pub throttled: u32,
}

/// What a table takes in a second. It saves up the capacity of one second.
#[derive(Debug)]
pub(crate) struct Capacity {
    writes: Bucket,
    reads: Bucket,
    pub(crate) units: Units,
}

#[derive(Debug)]
struct Bucket {
    rate: f64,
    left: f64,
    filled: Instant,
}

impl Capacity {
    pub(crate) fn new(writes: u32, reads: u32) -> Self {
        Self { writes: Bucket::new(writes), reads: Bucket::new(reads), units: Units::default() }
    }

    /// Returns whether the table has capacity for one more `operation`.
    pub(crate) fn admits(&mut self, operation: &str) -> bool {
        let is_read = operation == "GetItem";
        let bucket = if is_read { &mut self.reads } else { &mut self.writes };
        let admitted = bucket.take();
        let count = match (admitted, is_read) {
            (false, _) => &mut self.units.throttled,
            (true, true) => &mut self.units.read,
            (true, false) => &mut self.units.written,
        };
        *count += 1;
        admitted
    }
}

impl Bucket {
    fn new(rate: u32) -> Self {
        Self { rate: rate.into(), left: rate.into(), filled: Instant::now() }
    }

    fn take(&mut self) -> bool {
        let now = Instant::now();
        let more = now.duration_since(self.filled).as_secs_f64() * self.rate;
        (self.left, self.filled) = ((self.left + more).min(self.rate), now);
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}
