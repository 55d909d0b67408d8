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
        let may = {
            let state = self.state();
            state.turn.as_ref().is_some_and(Turn::has_waiters) && !state.limits.hands_over
        };
        may && self.hold_for().is_zero()
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
