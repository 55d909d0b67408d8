//! The waiting requests of this backend that keep newcomers out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use lock_core::{Error, Mode as LockMode};

use super::{Gate, PartsFile, mark_of};
use crate::{key::Key, sync};

/// The marks of this backend. Each is a locked byte of an open file, so it ends with the process.
#[derive(Debug, Default)]
pub(crate) struct Marks(Mutex<HashMap<Key, Arc<PartsFile>>>);

impl Marks {
    /// Ends the mark of a request that no longer waits for holders of another mode.
    pub(crate) fn remove(&self, key: &Key) {
        let mut marks = sync::lock(&self.0);
        let ended = if marks.is_empty() { None } else { marks.remove(key) };
        drop(marks);
        if let Some(file) = ended {
            file.unmark();
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<PartsFile>> {
        sync::lock(&self.0).get(key).map(Arc::clone)
    }

    /// Keeps the mark that was made through `file`.
    pub(crate) fn insert(&self, key: Key, file: PartsFile) {
        sync::lock(&self.0).insert(key, Arc::new(file));
    }
}

impl<'a> Gate<'a> {
    pub(crate) fn parts(&self) -> &'a PartsFile {
        self.0
    }

    /// Marks that a request of `mode` waits. Returns `false` if another one does: two of different
    /// modes would keep each other out.
    pub(crate) fn mark(&self, mode: LockMode) -> Result<bool, Error> {
        Ok(self.0.waiting()?.is_none() && self.0.try_byte(mark_of(mode))?)
    }
}

impl PartsFile {
    /// A child between fork and exec would delay the effect of a close.
    fn unmark(&self) {
        for mode in [LockMode::Exclusive, LockMode::Shared, LockMode::Permit { of: std::num::NonZeroU16::MIN }] {
            if let Err(error) = self.file.unlock_byte(mark_of(mode)) {
                tracing::debug!(file = %self.path.display(), %error, "cannot end the mark of a waiting request");
            }
        }
    }
}
