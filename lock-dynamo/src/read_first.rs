//! Reads the item before a write, where a refusal is likely.

use lock_core::{
    Error,
    backend::{AcquireOutcome, AcquireRequest},
};

use crate::{acquire::Verdict, backend::DynamoBackend};

impl DynamoBackend {
    /// Returns the refusal of `request` if the configuration asks for a read first, and the read
    /// shows that another client holds the lock. `None` leaves the answer to a conditional write.
    ///
    /// The read is strongly consistent. So the lock was held at a moment of this attempt, as when a
    /// write is refused. A schedule is never skipped because of a holder that has released.
    pub(crate) async fn refusal_by_reading(&self, request: &AcquireRequest) -> Result<Option<AcquireOutcome>, Error> {
        if !self.config.read_first || request.fair {
            return Ok(None);
        }
        let item = self.item(self.client().await?, &request.name).await;
        // Nothing was written, even if the read fails.
        let item = item.map_err(|error| error.with_ambiguous(false))?;
        let Some(record) = item.map(|item| self.read(&item)) else { return Ok(None) };
        let may_join = record.joined.is_some() && request.mode.may_be_joined();
        // A waiter leaves a mark for holders of another mode.
        let marks = request.waits && (record.joined.is_some() || request.mode.may_be_joined());
        if may_join || marks || record.is_stranger() || record.id == Some(request.id) {
            return Ok(None);
        }
        let is_held = matches!(self.judge(&request.name, &record), Verdict::Held(_));
        Ok(is_held.then(|| AcquireOutcome::Contended(self.holder(&request.name, &record))))
    }
}
