//! What binds the locks to this process, in both stores.

use std::time::Duration;

use lock_core::backend::{Lease, ProcessBound};

use super::MigrationBackend;
use crate::taken::{Side, State};

impl ProcessBound for MigrationBackend {
    fn release_now(&self, lease: &Lease, hold_for: Duration) -> bool {
        let Some(mut taken) = self.taken.find(lease) else { return true };
        for side in [Side::To, Side::From] {
            if taken.half(side).state == State::Nothing {
                continue;
            }
            // The old store's goes last, here too: what is left is for a release, or for `lost`.
            let half = self.half(lease, taken, side);
            if !self.side(side).process_bound().is_some_and(|bound| bound.release_now(&half, hold_for)) {
                return false;
            }
            taken.clear(side);
            self.taken.put(lease.id, &lease.name, taken);
        }
        true
    }

    fn on_lost(&self, lease: &Lease) {
        if let Some(taken) = self.taken.find(lease) {
            for side in [Side::To, Side::From] {
                if let Some(bound) = self.side(side).process_bound() {
                    bound.on_lost(&self.half(lease, taken, side));
                }
            }
        }
    }

    #[cfg(unix)]
    fn descriptors(&self, lease: &Lease) -> std::io::Result<Vec<std::os::fd::OwnedFd>> {
        let Some(taken) = self.taken.find(lease) else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for side in [Side::From, Side::To] {
            if let Some(bound) = self.side(side).process_bound() {
                all.extend(bound.descriptors(&self.half(lease, taken, side))?);
            }
        }
        Ok(all)
    }
}
