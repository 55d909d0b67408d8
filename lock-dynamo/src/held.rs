//! Renewal, release and loss of a lock with a single holder.

use std::time::Duration;

use lock_core::{
    Error, ErrorKind, LossReason,
    backend::{Lease, Release, Renewal, StoreTime},
};

use crate::{
    backend::DynamoBackend,
    record::{LockState, Record},
    send::WriteOutcome,
    write::ConditionalWrite,
};

impl DynamoBackend {
    /// Returns whether an expiry written with `reading` is right, now that the reply shows the
    /// store's clock.
    pub(crate) fn stands(&self, reading: StoreTime) -> bool {
        let stands = self.clock.confirms(reading);
        if !stands {
            let skew = self.clock.skew(self.clock.moment()).map(crate::client::seconds);
            tracing::warn!(?skew, table = %self.config.table, "this machine's clock is not the store's; writing the \
                lease again by the store's");
        }
        stands
    }

    /// Returns the result of a renewal that was written at `now` as this version.
    pub(crate) async fn settle(
        &self,
        lease: &Lease,
        now: StoreTime,
        version: String,
        written: WriteOutcome,
    ) -> Result<Renewal, Error> {
        let version = match written {
            WriteOutcome::Done if self.stands(now) => return Ok(Renewal::Renewed),
            WriteOutcome::Done => version,
            WriteOutcome::Refused(item) => {
                let record = item.map(|item| self.read(&item));
                match record {
                    // Its recorded end is later, so our clock went back. Observers still need a new
                    // version.
                    Some(record) if record.is_held_by(lease.id) => record.version,
                    record => return Ok(Renewal::Lost(self.loss_of(lease, record.as_ref()))),
                }
            }
        };
        let written = self.correct(lease, &version).await?;
        self.corrected(lease, written)
    }

    /// Returns the result of a renewal from that of its correction.
    pub(crate) fn corrected(&self, lease: &Lease, written: WriteOutcome) -> Result<Renewal, Error> {
        match written {
            WriteOutcome::Done => Ok(Renewal::Renewed),
            WriteOutcome::Refused(item) => {
                let record = item.map(|item| self.read(&item));
                if record.as_ref().is_some_and(|record| record.is_held_by(lease.id)) {
                    return Err(overtaken());
                }
                Ok(Renewal::Lost(self.loss_of(lease, record.as_ref())))
            }
        }
    }

    /// Releases the lock of a single holder.
    pub(crate) async fn release_alone(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        let layout = &self.config.layout;
        let written = if layout.schema.deletes_on_release() && hold_for.is_zero() {
            self.delete(&lease.name, ConditionalWrite::delete(layout, lease)).await?
        } else {
            let write = ConditionalWrite::release(layout, lease, hold_for, self.clock.now(), self.idle());
            self.update(&lease.name, write).await?
        };
        let WriteOutcome::Refused(item) = written else { return Ok(Release::Released) };
        let Some(record) = item.map(|item| self.read(&item)) else {
            return Ok(Release::NotHeld(None));
        };
        if record.joined.is_some() {
            return Ok(Release::NotHeld(self.current(&lease.name, &record)));
        }
        let was_broken = record.broken.as_ref().is_some_and(|(id, _)| *id == lease.id);
        if record.id == Some(lease.id) && !was_broken {
            // Released, but still with our id: an earlier request released it, and its reply was
            // lost.
            return Ok(Release::Released);
        }
        let held = record.state != LockState::Released;
        Ok(Release::NotHeld(held.then(|| self.holder(&lease.name, &record))))
    }

    pub(crate) fn loss_of(&self, lease: &Lease, record: Option<&Record>) -> LossReason {
        match record {
            Some(Record { broken: Some((id, by)), .. }) if *id == lease.id => LossReason::BrokenBy(by.clone()),
            _ if lease.mode.may_be_joined() => self.loss_of_part(lease, record),
            Some(Record { joined: Some(_), .. }) => self.loss_of_part(lease, record),
            Some(record) if record.id != Some(lease.id) && record.state == LockState::Held => {
                LossReason::TakenBy(Box::new(self.holder(&lease.name, record)))
            }
            _ => LossReason::RecordGone,
        }
    }
}

/// A delayed request of ours took effect between two others. The lock is ours, but its end is not
/// known.
pub(crate) fn overtaken() -> Error {
    Error::new(ErrorKind::Unavailable, "a late request for the same lease took effect meanwhile; try again")
}
