//! Gives away descriptors of lock files, and keeps some for waiters.

use std::{io, os::fd::OwnedFd};

use lock_core::{Error, LockName, backend::Lease};

use super::FileStore;
use crate::{
    table::AcquiredLock,
    wait::slots::{DescriptorSlot, IdleDescriptor},
};

impl FileStore {
    /// Returns duplicates of the descriptors of a lock that this process holds.
    pub(crate) fn descriptors(&self, lease: &Lease) -> io::Result<Vec<OwnedFd>> {
        let lend = |held: &mut AcquiredLock| {
            let mut lent = vec![held.lock.duplicate()?];
            if let Some(part) = &held.part {
                lent.push(part.file.file.duplicate()?);
            }
            held.lent = true;
            Ok(lent)
        };
        self.table.with(&(lease.id, lease.name.clone()), lend).unwrap_or_else(|| Ok(Vec::new()))
    }

    /// Opens the lock file for a watch, and keeps it open for the waiter's tries.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only inotify watches"))]
    pub(crate) fn descriptor_slot(&self, name: &LockName) -> Result<DescriptorSlot, Error> {
        let idle = match self.slots.take_refused(name) {
            Some(idle) => idle,
            None => IdleDescriptor { lock: self.open(&self.lock_path(name))?, cached: None },
        };
        Ok(DescriptorSlot::take(&self.slots, name, idle))
    }
}
