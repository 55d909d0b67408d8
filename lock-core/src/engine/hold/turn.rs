//! The place in this process's queue for the name.

use super::LeaseState;
use crate::engine::queue::Turn;

impl LeaseState {
    /// Keeps the turn of the waiter that acquired the lock.
    pub(crate) fn keep_turn(&self, turn: Option<Turn>) {
        let before = std::mem::replace(&mut self.state().turn, turn);
        drop(before);
    }

    pub(crate) fn take_turn(&self) -> Option<Turn> {
        self.state().turn.take()
    }

    /// Returns `true` if the next waiter of this process may send the release with its own request.
    pub(crate) fn may_be_relayed(&self) -> bool {
        let has_waiters = {
            let state = self.state();
            // Tokens for a series are reserved only if another one waits behind that waiter.
            let least = if state.limits.hands_over { 2 } else { 1 };
            state.turn.as_ref().is_some_and(|turn| turn.waiters() >= least)
        };
        has_waiters && self.hold_for().is_zero()
    }

    /// Records that the lock is being released. A later attempt of this process can wait for that.
    pub(crate) fn note_release(&self) {
        if let Some(turn) = &self.state().turn {
            turn.note_release();
        }
    }

    /// Gives the turn to the next waiter of this process.
    pub(crate) fn end_turn(&self) {
        self.keep_turn(None);
    }
}
