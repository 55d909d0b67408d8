//! Keeps the lock files of waiters open between their tries.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use lock_core::LockName;

use crate::{lockfile::LockFile, medium::refusal::CachedHolder, sync};

/// The descriptors of one backend's waiters.
#[derive(Debug, Default)]
pub(crate) struct DescriptorSlots(Mutex<Descriptors>);

#[derive(Debug, Default)]
struct Descriptors {
    waiting: HashMap<LockName, Waiting>,
    /// The descriptor of the latest refusal. The refused client is likely to watch next, and
    /// closing its descriptor would wake all existing watches.
    refused: Option<(LockName, IdleDescriptor)>,
}

/// An open lock file for the next try.
#[derive(Debug)]
pub(crate) struct IdleDescriptor {
    pub(crate) lock: LockFile,
    /// The holder at the last refusal.
    pub(crate) cached: Option<CachedHolder>,
}

/// The watches of a name and its idle descriptors.
///
/// If waiters opened and closed the lock file for each try, each close would wake the other
/// waiters, endlessly. So one descriptor per watch stays open, and tries reuse it.
#[derive(Debug, Default)]
struct Waiting {
    watches: usize,
    idle: Vec<IdleDescriptor>,
}

impl DescriptorSlots {
    fn descriptors(&self) -> MutexGuard<'_, Descriptors> {
        sync::lock(&self.0)
    }

    /// Takes an idle descriptor for one try. No other waiter can use it meanwhile: two waiters with
    /// one descriptor would share its lock.
    pub(crate) fn take_idle(&self, name: &LockName) -> Option<IdleDescriptor> {
        let idle = self.descriptors().waiting.get_mut(name).and_then(|waiting| waiting.idle.pop());
        idle.or_else(|| self.take_refused(name))
    }

    /// Takes the descriptor of the latest refusal, if that was for `name`.
    pub(crate) fn take_refused(&self, name: &LockName) -> Option<IdleDescriptor> {
        self.descriptors().refused.take_if(|(refused, _)| refused == name).map(|(_, idle)| idle)
    }

    /// Keeps `idle` for the next try: as long as a watch has room for it, otherwise until the next
    /// refusal.
    pub(crate) fn keep(&self, name: &LockName, idle: IdleDescriptor) {
        let mut descriptors = self.descriptors();
        if let Some(waiting) = descriptors.waiting.get_mut(name).filter(|w| w.idle.len() < w.watches) {
            waiting.idle.push(idle);
            return;
        }
        let before = descriptors.refused.replace((name.clone(), idle));
        drop(descriptors);
        drop(before);
    }
}

/// A watch's request to one idle descriptor.
#[derive(Debug)]
pub(crate) struct DescriptorSlot {
    slots: Arc<DescriptorSlots>,
    name: LockName,
}

impl DescriptorSlot {
    pub(crate) fn take(slots: &Arc<DescriptorSlots>, name: &LockName, idle: IdleDescriptor) -> Self {
        slots.descriptors().waiting.entry(name.clone()).or_default().watches += 1;
        slots.keep(name, idle);
        Self { slots: Arc::clone(slots), name: name.clone() }
    }
}

impl Drop for DescriptorSlot {
    fn drop(&mut self) {
        let mut descriptors = self.slots.descriptors();
        let Some(waiting) = descriptors.waiting.get_mut(&self.name) else { return };
        waiting.watches -= 1;
        waiting.idle.truncate(waiting.watches);
        if waiting.watches == 0 {
            descriptors.waiting.remove(&self.name);
        }
    }
}
