//! Which answers a server owes, and since when: how a connection is found to be dead that nobody has closed.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use redis::cluster_routing::Slot;

/// What is owed on one connection. Needed because the caller may give up before the timeout of the connection does, and a
/// connection whose packets vanish would then be used for ever.
#[derive(Default)]
pub(crate) struct Debts(Mutex<Owing>);

/// By slot on a cluster, whose nodes fail one by one.
#[derive(Default)]
struct Owing {
    server: Owed,
    slots: HashMap<Slot, Owed>,
}

#[derive(Default)]
struct Owed {
    /// For which somebody waits.
    requests: usize,
    since: Option<Instant>,
    /// The node is known to be gone.
    dead: bool,
}

/// A request under way. Dropped while it is open, the time since when the server owes its answer stays noted.
pub(crate) struct Request<'a> {
    debts: &'a Debts,
    slot: Option<Slot>,
    end: End,
}

#[derive(Clone, Copy)]
pub(crate) enum End {
    Open,
    Answered,
    Dead,
}

impl Debts {
    /// Whether no answer can be expected for `slot`: none has come for `timeout`, or the node is gone.
    pub(crate) fn is_silent(&self, slot: Option<Slot>, timeout: Duration) -> bool {
        let mut owing = self.owing();
        let owed = owing.of(slot);
        owed.dead || owed.since.is_some_and(|since| since.elapsed() >= timeout)
    }

    /// Notes a request to the one who answers for `slot`.
    pub(crate) fn begin(&self, slot: Option<Slot>) -> Request<'_> {
        let mut owing = self.owing();
        let owed = owing.of(slot);
        owed.requests += 1;
        owed.since.get_or_insert_with(Instant::now);
        Request { debts: self, slot, end: End::Open }
    }

    fn owing(&self) -> MutexGuard<'_, Owing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Owing {
    fn of(&mut self, slot: Option<Slot>) -> &mut Owed {
        match slot {
            None => &mut self.server,
            Some(slot) => self.slots.entry(slot).or_default(),
        }
    }
}

impl Request<'_> {
    pub(crate) fn end(mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        let mut owing = self.debts.owing();
        let owed = owing.of(self.slot);
        owed.requests -= 1;
        match self.end {
            End::Open => {}
            End::Dead => owed.dead = true,
            // Answers come in order, so whatever is still open was sent after this one.
            End::Answered => (owed.since, owed.dead) = ((owed.requests > 0).then(Instant::now), false),
        }
    }
}
