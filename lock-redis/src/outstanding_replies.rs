//! Tracks outstanding replies, to detect half-open connections.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use redis::cluster_routing::Slot;

/// The outstanding replies of one connection.
///
/// A caller may give up before the connection's own timeout. The connection then never reports an
/// error, and without this record it would stay in use although its packets vanish.
#[derive(Default)]
pub(crate) struct OutstandingReplies(Mutex<BySlot>);

/// By slot on a cluster, because its nodes fail independently.
#[derive(Default)]
struct BySlot {
    server: Outstanding,
    slots: HashMap<Slot, Outstanding>,
}

#[derive(Default)]
struct Outstanding {
    /// Requests whose callers still wait.
    requests: usize,
    /// Since when no reply has come although one is due.
    since: Option<Instant>,
    /// The node is known to be gone.
    dead: bool,
}

/// A request under way. If it is dropped without an answer, its reply stays outstanding.
pub(crate) struct RequestInFlight<'a> {
    replies: &'a OutstandingReplies,
    slot: Option<Slot>,
    end: RequestEnd,
}

#[derive(Clone, Copy)]
pub(crate) enum RequestEnd {
    Open,
    Answered,
    Dead,
}

impl OutstandingReplies {
    /// Whether no answer can be expected for `slot`: none has come for `timeout`, or the node is
    /// gone.
    pub(crate) fn is_silent(&self, slot: Option<Slot>, timeout: Duration) -> bool {
        let mut by_slot = self.by_slot();
        let outstanding = by_slot.of(slot);
        outstanding.dead || outstanding.since.is_some_and(|since| since.elapsed() >= timeout)
    }

    /// Records a request to the server that owns `slot`.
    pub(crate) fn begin(&self, slot: Option<Slot>) -> RequestInFlight<'_> {
        let mut by_slot = self.by_slot();
        let outstanding = by_slot.of(slot);
        outstanding.requests += 1;
        outstanding.since.get_or_insert_with(Instant::now);
        RequestInFlight { replies: self, slot, end: RequestEnd::Open }
    }

    fn by_slot(&self) -> MutexGuard<'_, BySlot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BySlot {
    fn of(&mut self, slot: Option<Slot>) -> &mut Outstanding {
        match slot {
            None => &mut self.server,
            Some(slot) => self.slots.entry(slot).or_default(),
        }
    }
}

impl RequestInFlight<'_> {
    pub(crate) fn end(mut self, end: RequestEnd) {
        self.end = end;
    }
}

impl Drop for RequestInFlight<'_> {
    fn drop(&mut self) {
        let mut by_slot = self.replies.by_slot();
        let outstanding = by_slot.of(self.slot);
        outstanding.requests -= 1;
        match self.end {
            RequestEnd::Open => {}
            RequestEnd::Dead => outstanding.dead = true,
            // Replies come in order, so all open requests were sent after this one.
            RequestEnd::Answered => {
                outstanding.since = (outstanding.requests > 0).then(Instant::now);
                outstanding.dead = false;
            }
        }
    }
}
