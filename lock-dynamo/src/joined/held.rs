//! Renewal, release and loss of one part of a lock with several holders.

use std::time::Duration;

use lock_core::{
    Error, FencingToken, LockName, LossReason,
    backend::{Break, Lease, LeaseId, Release, Renewal},
};

use super::{PART, acquire::ENDED};
use crate::{
    acquire::Verdict,
    backend::DynamoBackend,
    held::overtaken,
    record::Record,
    send::WriteOutcome,
    write::{ConditionalWrite, part_end},
};

impl DynamoBackend {
    pub(crate) async fn renew_part(&self, lease: &Lease) -> Result<Renewal, Error> {
        let (layout, now) = (&self.config.layout, self.clock.now());
        let write = ConditionalWrite::renew_part(layout, lease, now, self.idle());
        let seen = match self.update(&lease.name, write).await? {
            WriteOutcome::Done if self.stands(now) => return Ok(Renewal::Renewed),
            WriteOutcome::Done => part_end(now, lease.ttl),
            WriteOutcome::Refused(item) => {
                let record = item.map(|item| self.read(&item));
                let part = record.as_ref().and_then(|record| record.joined.as_ref()?.part(lease.id));
                let Some(part) = part.filter(|part| part.is_held()) else {
                    return Ok(Renewal::Lost(self.loss_of(lease, record.as_ref())));
                };
                // Its recorded end is later, so our clock went back.
                part.expires.ok_or_else(overtaken)?
            }
        };
        let write = ConditionalWrite::correct_part(layout, lease, self.clock.now(), self.idle(), seen, None);
        let written = self.write_again(&lease.name, write).await?;
        self.corrected(lease, written)
    }

    pub(crate) async fn advance_part(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        let layout = &self.config.layout;
        for fence in [true, false] {
            let write = ConditionalWrite::advance_part(layout, lease, token, fence);
            let WriteOutcome::Refused(item) = self.update(&lease.name, write).await? else { return Ok(true) };
            let record = item.map(|item| self.read(&item));
            let part = record.as_ref().and_then(|record| record.joined.as_ref()?.part(lease.id));
            let Some(part) = part.filter(|part| part.is_held()) else { return Ok(false) };
            if part.fence >= Some(token) {
                return Ok(true);
            }
        }
        Err(overtaken())
    }

    pub(crate) async fn release_part(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        loop {
            let write = ConditionalWrite::release_part(&self.config.layout, lease, hold_for, self.clock.now());
            let WriteOutcome::Refused(item) = self.update(&lease.name, write).await? else {
                return Ok(Release::Released);
            };
            let Some(record) = item.map(|item| self.read(&item)) else { return Ok(Release::NotHeld(None)) };
            let part = record.joined.as_ref().and_then(|joined| joined.part(lease.id));
            if part.is_some_and(|part| part.broken_by.is_none()) {
                // An earlier request released it, and its reply was lost.
                return Ok(Release::Released);
            }
            if matches!(self.judge(&lease.name, &record), Verdict::Free) {
                return Ok(Release::NotHeld(None));
            }
            if part.is_some() || self.refuse_late_part(lease, &record).await? {
                return Ok(Release::NotHeld(Some(self.holder(&lease.name, &record))));
            }
        }
    }

    /// Makes others' item refuse an acquisition of `lease` that arrives after this release. Returns
    /// `false` if it has just arrived.
    async fn refuse_late_part(&self, lease: &Lease, seen: &Record) -> Result<bool, Error> {
        let Some(joined) = seen.joined.as_ref() else { return Ok(true) };
        // An item of full size could not be renewed. Beyond this number, a late part ends with its
        // ttl.
        let room = joined.parts.len() - self.judge_parts(joined).ended.len() + ENDED;
        let write = ConditionalWrite::end_missing_part(&self.config.layout, lease, self.clock.now(), room);
        let WriteOutcome::Refused(item) = self.update(&lease.name, write).await? else { return Ok(true) };
        Ok(!item.is_some_and(|item| self.read(&item).is_held_by(lease.id)))
    }

    /// Takes the part that `seen` names from its holder. `None` if it names no part.
    pub(crate) async fn break_part(&self, name: &LockName, seen: &str, by: &str) -> Result<Option<Break>, Error> {
        let Some(id) = seen.strip_prefix(PART).and_then(|id| id.parse::<LeaseId>().ok()) else { return Ok(None) };
        let write = ConditionalWrite::break_part(&self.config.layout, id, by, self.clock.now());
        Ok(Some(match self.update(name, write).await? {
            WriteOutcome::Done => Break::Broken,
            WriteOutcome::Refused(item) => {
                let record = item.map(|item| self.read(&item));
                Break::Changed(record.and_then(|record| self.current(name, &record)))
            }
        }))
    }

    /// Why the part of `lease` is not held any more.
    pub(crate) fn loss_of_part(&self, lease: &Lease, record: Option<&Record>) -> LossReason {
        let joined = record.and_then(|record| record.joined.as_ref());
        if let Some(by) = joined.and_then(|joined| joined.part(lease.id)?.broken_by.clone()) {
            return LossReason::BrokenBy(by);
        }
        let holder = record.and_then(|record| self.current(&lease.name, record));
        let successor = holder.filter(|holder| holder.mode != lease.mode);
        successor.map_or(LossReason::RecordGone, |holder| LossReason::TakenBy(Box::new(holder)))
    }
}
