#![doc = include_str!("../README.md")]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use lock_core::{
    Error, FencingToken, Holder, LockName, LossReason,
    backend::{
        AcquireOutcome, AcquireRequest, Backend, Capabilities, Grant, Lease, LeaseId, Release, Renewal, StoreTimings,
    },
};
use tokio::time::Instant;

/// Keeps leases in memory: the required operations, expiry and tokens, and none of the optional
/// parts.
#[derive(Debug, Clone, Default)]
pub struct Shelf(Arc<Mutex<Slots>>);

/// With the last token of any of them.
type Slots = (HashMap<LockName, Slot>, Option<FencingToken>);

#[derive(Debug, Clone)]
struct Slot {
    id: LeaseId,
    token: FencingToken,
    until: Instant,
    released: bool,
}

impl Slot {
    fn is_held_by(&self, id: LeaseId) -> bool {
        self.id == id && !self.released && Instant::now() < self.until
    }
}

impl Shelf {
    fn with<T>(&self, change: impl FnOnce(&mut HashMap<LockName, Slot>, &mut Option<FencingToken>) -> T) -> T {
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (slots, last) = &mut *shelf;
        change(slots, last)
    }
}

#[async_trait]
impl Backend for Shelf {
    fn describe(&self) -> String {
        "shelf:".into()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().with_ttl(true).with_fencing(true)
    }

    fn timings(&self) -> StoreTimings {
        StoreTimings::default()
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        request.require_exclusive()?;
        let until = Instant::now() + request.ttl;
        Ok(self.with(|slots, last| {
            let crashed = match slots.get_mut(&request.name) {
                Some(slot) if slot.is_held_by(request.id) => {
                    slot.until = until;
                    return AcquireOutcome::Granted(Grant::default().with_token(slot.token).with_already_ours(true));
                }
                Some(slot) if Instant::now() < slot.until => return AcquireOutcome::Contended(Holder::default()),
                Some(slot) => (!slot.released).then(Holder::default),
                None => None,
            };
            let token = FencingToken::next(*last, 0).expect("2^53 is far");
            *last = Some(token);
            slots.insert(request.name.clone(), Slot { id: request.id, token, until, released: false });
            AcquireOutcome::Granted(Grant::default().with_token(token).with_crashed(crashed))
        }))
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        Ok(self.with(|slots, _| match slots.get_mut(&lease.name) {
            Some(slot) if slot.is_held_by(lease.id) => {
                slot.until = Instant::now() + lease.ttl;
                Renewal::Renewed
            }
            Some(slot) if slot.id != lease.id => Renewal::Lost(LossReason::TakenBy(Box::default())),
            _ => Renewal::Lost(LossReason::RecordGone),
        }))
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        Ok(self.with(|slots, _| match slots.get_mut(&lease.name) {
            Some(slot) if slot.is_held_by(lease.id) => {
                (slot.released, slot.until) = (true, Instant::now() + hold_for);
                Release::Released
            }
            Some(slot) if slot.id == lease.id && slot.released => Release::Released,
            _ => Release::NotHeld(None),
        }))
    }
}
