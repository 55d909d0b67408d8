//! A backend as a third party would write it, with nothing but the public contract, and the kit that judges it: the last dozen lines.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use lock_core::{
    Capabilities, Error, FencingToken, Holder, Lease, LeaseId, LockName, LossReason,
    backend::{Attempt, Backend, Claim, Grant, Release, Renewal},
    capabilities::Pace,
    testing::Subject,
};
use tokio::time::Instant;

/// Leases on a shelf in memory: the required operations, expiry and tokens, and none of the optional parts.
#[derive(Debug, Clone, Default)]
struct Shelf(Arc<Mutex<Slots>>);

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
        Capabilities { ttl: true, fencing: true, ..Capabilities::default() }
    }

    fn pace(&self) -> Pace {
        Pace::default()
    }

    async fn acquire(&self, claim: &Claim) -> Result<Attempt, Error> {
        let until = Instant::now() + claim.ttl.unwrap_or_default();
        Ok(self.with(|slots, last| {
            let crashed = match slots.get_mut(&claim.name) {
                Some(slot) if slot.is_held_by(claim.id) => {
                    slot.until = until;
                    return Attempt::Granted(Grant { token: Some(slot.token), already_ours: true, ..Grant::default() });
                }
                Some(slot) if Instant::now() < slot.until => return Attempt::Held(Holder::default()),
                Some(slot) => (!slot.released).then(Holder::default),
                None => None,
            };
            let token = FencingToken::next(*last, 0).expect("2^53 is far");
            *last = Some(token);
            slots.insert(claim.name.clone(), Slot { id: claim.id, token, until, released: false });
            Attempt::Granted(Grant { token: Some(token), crashed, already_ours: false })
        }))
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        Ok(self.with(|slots, _| match slots.get_mut(&lease.name) {
            Some(slot) if slot.is_held_by(lease.id) => {
                slot.until = Instant::now() + lease.ttl.unwrap_or_default();
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

struct TheShelf(Shelf);

#[async_trait]
impl Subject for TheShelf {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(self.0.clone())
    }
}

lock_core::conformance! {
    #[tokio::test(start_paused = true)]
    TheShelf(Shelf::default()),
    except = [
        (a_refusal_says_who_holds_the_lock, "the shelf keeps no owner"),
        (the_winner_is_told_of_a_crashed_holder, "the shelf keeps no owner"),
        (tokens_rise_across_break, "nothing is broken on the shelf"),
        (a_broken_lease_is_lost_at_the_next_renewal, "nothing is broken on the shelf"),
        (break_compares_the_version, "nothing is broken on the shelf"),
        (a_descriptor_keeps_the_lock_held, "the lock does not live in a descriptor"),
        (a_watch_sees_the_release, "waiters poll the shelf"),
        (a_wake_up_that_is_not_used_is_passed_on, "waiters poll the shelf"),
        (inspect_sees_the_holder, "the shelf keeps no owner"),
        (list_shows_held_locks_by_prefix, "the shelf keeps no owner"),
        (a_deleted_record_is_a_loss_at_the_next_renewal, "nobody but its clients reaches the shelf"),
        (a_replaced_record_is_somebody_elses_lock, "nobody but its clients reaches the shelf"),
        (tokens_rise_although_their_record_was_deleted, "nobody but its clients reaches the shelf"),
    ]
}
