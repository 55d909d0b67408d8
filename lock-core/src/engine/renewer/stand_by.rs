//! The runtimes of waiters, on which the renewal task can start if no other one is left.

use std::sync::Arc;

use tokio::runtime::{Handle, Id};

use super::Renewer;
use crate::types::Process;

impl Renewer {
    /// Notes the runtime of a waiter until the result is dropped. The task starts there if no other
    /// runtime can run it. Otherwise the waiter could be behind a guard that no task ends.
    pub(crate) fn stand_by(self: &Arc<Self>, runtime: Id, process: Process) -> StandBy {
        let stands_by = StandBy { renewer: Arc::clone(self), runtime, process };
        let mut schedule = self.schedule();
        if let Some((_, waits)) = schedule.waiting.iter_mut().find(|(known, _)| known.id() == runtime) {
            *waits += 1;
            return stands_by;
        }
        let handle = Handle::current();
        schedule.waiting.push((handle.clone(), 1));
        drop(schedule);
        // The other one may have ended just now.
        self.revive(&handle);
        stands_by
    }
}

/// The wait of one request, during which its runtime can run the renewal task.
pub(crate) struct StandBy {
    renewer: Arc<Renewer>,
    runtime: Id,
    process: Process,
}

impl Drop for StandBy {
    fn drop(&mut self) {
        // In a child made by `fork` the mutex may stay locked.
        if !self.process.is_current() {
            return;
        }
        let mut schedule = self.renewer.schedule();
        if let Some((_, waits)) = schedule.waiting.iter_mut().find(|(known, _)| known.id() == self.runtime) {
            *waits -= 1;
        }
        schedule.waiting.retain(|(_, waits)| *waits > 0);
    }
}
