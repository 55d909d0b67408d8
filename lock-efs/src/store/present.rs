//! Looks at the holders of parts, without a lock.

use lock_core::{Error, FencingToken, Holder};

use super::FileStore;
use crate::{
    clock::now_us,
    files::Files,
    parts::{self, slots::Slots},
    sidecar,
};

impl FileStore {
    /// Returns the holders of parts as one.
    pub(super) fn several(&self, slots: &Slots, held: &[usize], now_us: u64) -> Option<Holder> {
        let time = self.medium.store_time();
        let holders = slots.holders(held, now_us).into_iter();
        Holder::of_several(holders.map(|holder| holder.with_store_time(time)).collect())
    }

    /// Returns the present holders of parts, without a lock.
    pub(crate) fn present(&self, files: &Files) -> Result<Option<Holder>, Error> {
        let record = sidecar::peek(&files.record, self.medium.open_flags());
        record.joined_from().map_or(Ok(None), |from| self.joined_since(files, from))
    }

    /// Returns the present holders of parts with tokens above `from`.
    pub(crate) fn joined_since(&self, files: &Files, from: FencingToken) -> Result<Option<Holder>, Error> {
        let (slots, held) = parts::look(&files.parts, self.medium.open_flags())?;
        Ok(self.several(&slots.since(Some(from)), &held, now_us()))
    }
}
