//! The contract between the core and a store. For implementors; users hold a [`Locker`](crate::Locker).

mod admin;
mod capabilities;
mod finding;
mod observations;
mod process_bound;
mod store_clock;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::join_all;

pub use self::{
    admin::Admin,
    capabilities::{Capabilities, Capability, StoreTimings, UnknownCapability},
    finding::{Finding, Level},
    observations::Observations,
    process_bound::ProcessBound,
    store_clock::{StoreClock, StoreTime},
};
use crate::types::{DEFAULT_TTL, Error, ErrorKind, FencingToken, Holder, LockName, LossReason, Operation, setters};
pub use crate::types::{InvalidLeaseId, Lease, LeaseId};

/// A store of locks: one *attempt* to acquire, renew or release, and what operators need.
///
/// An implementation does not wait, does not retry in a loop, does not start background tasks and keeps no clock: waiting, jitter,
/// renewal, loss, drop and timeouts exist once, in the core. Below, each bullet names the case of the
/// conformance kit (feature `testing`) that checks it.
///
/// # For all operations
/// - Any [`LockName`] works and two different names never meet, whatever the store folds, cuts or forbids
///   (`unusual_names_are_kept_as_distinct_locks`).
/// - The future may be dropped at any await point, and the core follows up with [`release`](Self::release) of the same id
///   (`a_cancelled_acquire_leaves_no_lock_behind`).
/// - An error says that the outcome is unknown or that nothing was done, and
///   [`is_ambiguous`](Error::is_ambiguous) tells which; contention is never an error (`a_held_lock_refuses_other_lease_ids`,
///   `exactly_one_of_many_contenders_acquires`).
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// The store, for messages, logs and metrics: as a config string without secrets.
    fn describe(&self) -> String;

    /// What this backend, as configured, can do.
    fn capabilities(&self) -> Capabilities;

    /// How often the core should come back.
    fn timings(&self) -> StoreTimings;

    /// Tries once to acquire `claim.name`.
    ///
    /// - A free name is granted (`acquiring_a_free_lock_grants_it`) and from then on held against every other id, from this client
    ///   and others (`a_held_lock_refuses_other_lease_ids`, `two_clients_never_hold_the_same_lock`); of many at once exactly one wins,
    ///   or none where several servers vote (`exactly_one_of_many_contenders_acquires`).
    /// - A refusal says who holds the lock, with owner, data, token and start, where the capability `holder` is declared
    ///   (`a_refusal_reports_the_current_holder`).
    /// - Idempotent on `claim.id`: while that id holds the lock, acquiring again grants it again, with the same token,
    ///   [`already_ours`](Grant::already_ours) and, where there is a ttl, a whole ttl from then on
    ///   (`acquiring_again_with_the_same_id_succeeds`).
    /// - A copy of the request that comes after the release of its own id, having been held up on its way, is refused while somebody else holds
    ///   the lock. Otherwise it may be granted, to nobody, with a token of its own, and ends with its ttl like any lease that nobody renews
    ///   (`a_late_acquire_leaves_no_lasting_lock`); a store that can tell leaves no lock behind.
    /// - Every grant carries a token larger than all before it, across release, expiry and break, where
    ///   the capability `fencing` is declared (`fencing_tokens_increase_across_every_release`, `fencing_tokens_increase_across_lease_expiry`, `fencing_tokens_increase_across_a_forced_break`), also when
    ///   a third party has deleted what the store keeps of them (`fencing_tokens_increase_after_their_record_is_deleted`).
    /// - With a ttl the lock is free once the holder's own ttl, as recorded, has passed on the store's clock, and not before; a contender's
    ///   ttl does not matter (`an_expired_lock_is_granted_in_one_attempt`, `the_holders_ttl_decides_when_a_lock_expires`), to one of those
    ///   who want it (`exactly_one_contender_replaces_a_crashed_holder`). The winner is told of the crashed holder (`the_next_grant_reports_a_crashed_holder`), and only of a crashed one
    ///   (`a_released_lock_reports_no_crashed_holder`).
    ///
    /// # Errors
    /// When the store cannot say; never because the lock is held.
    async fn acquire(&self, claim: &AcquireRequest) -> Result<AcquireOutcome, Error>;

    /// Renews `lease` once: it then lasts `lease.ttl` from the store's now.
    ///
    /// - While the lease is held it is [`Renewed`](Renewal::Renewed), and lasts longer (`renewing_keeps_the_lease_past_its_ttl`); again with
    ///   the same result (`renewing_a_lease_repeatedly_is_idempotent`).
    /// - A lease that is not held any more is [`Lost`](Renewal::Lost), with the reason, and is never revived
    ///   (`renewing_a_released_lease_reports_its_loss`, `renewing_an_expired_lease_leaves_its_successor_alone`,
    ///   `the_next_renewal_reports_a_broken_lease`); nor is one whose record a third party has deleted or replaced
    ///   (`the_next_renewal_reports_a_deleted_record`, `a_replaced_record_belongs_to_another_client`).
    ///
    /// # Errors
    /// When the store cannot say.
    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error>;

    /// Raises the token of a lock that is held: its holder's is `token` from now on, and all later ones are larger. `false` when `lease` does not hold the
    /// lock. A smaller `token` changes nothing. For what makes one lock of several stores, whose tokens have to agree.
    ///
    /// - The next token is larger than the one that was raised (`the_next_token_exceeds_an_advanced_token`).
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where tokens cannot be raised; else when the store cannot say.
    async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        let _ = token;
        Err(unsupported(self, "raising a token").with_operation(Operation::Acquire).with_name(&lease.name))
    }

    /// Releases `lease` once. With `hold_for` above zero the lock stays refused to everybody for that long, and is then free.
    ///
    /// - The lock is free at once for others (`a_released_lock_can_be_acquired_again`), or after `hold_for`
    ///   (`min_hold_keeps_the_lock_after_release`).
    /// - Compares the id: never touches a successor's lock; what is not held by this id is
    ///   [`NotHeld`](Release::NotHeld), a value (`a_late_release_leaves_the_successor_alone`, `releasing_twice_is_never_an_error`), also after the
    ///   lock was broken (`releasing_a_broken_lease_reports_not_held`).
    /// - Works for an id whose acquire was refused, lost or never sent (`releasing_a_lease_never_granted_is_no_error`).
    ///
    /// # Errors
    /// When the store cannot say.
    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error>;

    /// Renews several leases, one result for each, in order. The core passes at most [`StoreTimings::renew_batch`] at once.
    ///
    /// - Each lease has its own result: one that is lost spoils no other (`renewing_many_leases_reports_each_one_separately`).
    async fn renew_many(&self, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        join_all(leases.iter().map(|lease| self.renew(lease))).await
    }

    /// Starts to watch for `name` becoming free; `None` when this store cannot tell, and the core polls.
    ///
    /// - A release after this returned completes the [`Watch::changed`] of at least one of those who watch the name, so of the only one
    ///   there is (`a_watch_completes_after_the_release`); a store may wake one after the other. It may also complete for nothing.
    /// - Who was woken and is dropped without having acquired passes the wake-up on to another
    ///   (`an_unused_wake_up_reaches_another_watcher`).
    ///
    /// The core relies on neither: whoever hears nothing comes back at the holder's expiry, and after [`StoreTimings::poll_max`] at the latest.
    ///
    /// # Errors
    /// When watching fails; the core then polls, and tries to watch again with every attempt.
    async fn watch(&self, name: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        let _ = name;
        Ok(None)
    }

    /// The half of the contract that operators need; `None` when this store can do nothing of it.
    ///
    /// - It is there where one of the capabilities `inspect`, `list` and `break` is declared
    ///   (`operators_calls_are_there_where_declared`).
    fn admin(&self) -> Option<&dyn Admin> {
        None
    }

    /// The half of the contract for locks that live in this process; `None` when a lock ends by its
    /// ttl alone.
    fn process_bound(&self) -> Option<&dyn ProcessBound> {
        None
    }

    /// Looks at how the store is set up: whether that is fit for locks, and what to change. What cannot be found out, because
    /// the store does not answer or a permission is missing, is a finding too, and never [`Unfit`](crate::backend::Level::Unfit).
    ///
    /// It need not try whether locks work; `onelock doctor` does that, on every store.
    ///
    /// - Finds nothing unfit on a store that keeps its promises, and changes no lock
    ///   (`diagnose_finds_the_store_fit_and_changes_nothing`).
    async fn diagnose(&self) -> Vec<Finding> {
        Vec::new()
    }
}

impl dyn Backend {
    /// The operators' half.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Unsupported`] when this store has none.
    pub fn require_admin(&self) -> Result<&dyn Admin, Error> {
        self.admin().ok_or_else(|| unsupported(self, "looking at the locks of others"))
    }
}

fn unsupported<B: Backend + ?Sized>(backend: &B, what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what} is not possible on this store")).with_store(backend.describe())
}

/// A shared backend is a backend, so that a test can keep a handle on the one that it gives away.
#[async_trait]
#[deny(clippy::missing_trait_methods, reason = "a wrapper that forgets a method hides what the backend can do")]
impl<B: Backend + ?Sized> Backend for Arc<B> {
    fn describe(&self) -> String {
        (**self).describe()
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    fn timings(&self) -> StoreTimings {
        (**self).timings()
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        (**self).acquire(request).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        (**self).renew(lease).await
    }

    async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        (**self).advance_token(lease, token).await
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        (**self).release(lease, hold_for).await
    }

    async fn renew_many(&self, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        (**self).renew_many(leases).await
    }

    async fn watch(&self, name: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        (**self).watch(name).await
    }

    fn admin(&self) -> Option<&dyn Admin> {
        (**self).admin()
    }

    fn process_bound(&self) -> Option<&dyn ProcessBound> {
        (**self).process_bound()
    }

    async fn diagnose(&self) -> Vec<Finding> {
        (**self).diagnose().await
    }
}

/// Waits for a name to become free; made by [`Backend::watch`].
#[async_trait]
pub trait Watch: fmt::Debug + Send {
    /// Returns when the name may have become free since the watch began or since the last return.
    ///
    /// # Cancel safety
    /// Cancel safe: a change that nobody has seen yet completes the next call.
    async fn changed(&mut self);
}

/// What [`Backend::acquire`] is asked for. It may grow: make one with [`new`](Self::new) and setters.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AcquireRequest {
    /// What to lock.
    pub name: LockName,
    /// The id of this acquisition, the same in every attempt of it.
    pub id: LeaseId,
    /// How the lock is to be held.
    pub mode: Mode,
    /// How the holder calls itself.
    pub owner: String,
    /// How long the store keeps the lock without a renewal. A store without the capability `ttl`
    /// ignores it.
    pub ttl: Duration,
    /// What others may read while the lock is held.
    pub data: Option<Vec<u8>>,
}

/// How a lock is held.
///
/// A backend refuses a mode that it does not know with [`ErrorKind::Unsupported`], and never falls
/// back to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Mode {
    /// One holder, and no other of any mode.
    #[default]
    Exclusive,
}

impl AcquireRequest {
    /// A request for an exclusive lock with the default ttl, 30 s, and no data.
    pub fn new(name: LockName, id: LeaseId, owner: impl Into<String>) -> Self {
        Self { name, id, mode: Mode::Exclusive, owner: owner.into(), ttl: DEFAULT_TTL, data: None }
    }

    /// The lease that this request becomes when it is granted with `token`.
    pub fn lease(&self, token: Option<FencingToken>) -> Lease {
        Lease { name: self.name.clone(), id: self.id, token, ttl: self.ttl }
    }
}

setters!(AcquireRequest {
    with_name(name: LockName),
    with_id(id: LeaseId),
    with_mode(mode: Mode),
    with_owner(owner: impl Into<String>),
    with_ttl(ttl: Duration),
    with_data(data: impl Into<Option<Vec<u8>>>),
});

/// The answer to an attempt to acquire.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a granted lock that nobody keeps stays held"]
pub enum AcquireOutcome {
    /// The lock is held by the claim's id now.
    Granted(Grant),
    /// Somebody else holds it.
    Contended(Holder),
}

/// What comes with a granted lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// The fencing token, where the backend mints them.
    pub token: Option<FencingToken>,
    /// The previous holder, if it went without releasing.
    pub crashed: Option<Holder>,
    /// The claim's id held the lock before this attempt: an earlier one had succeeded and its reply was lost.
    pub already_ours: bool,
}

setters!(Grant {
    with_token(token: impl Into<Option<FencingToken>>),
    with_crashed(crashed: impl Into<Option<Holder>>),
    with_already_ours(already_ours: bool),
});

/// The answer to a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a lease that was lost must not be used"]
pub enum Renewal {
    /// The lease lasts a whole ttl from the store's now.
    Renewed,
    /// The lease is not held any more.
    Lost(LossReason),
}

/// The answer to a release. It may be ignored: either way this lease does not hold the lock any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// The lock is free, or will be after `hold_for`.
    Released,
    /// This lease did not hold the lock; whoever does, if the store says so, still does.
    NotHeld(Option<Holder>),
}

/// The answer to a break.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "`Changed` means that nothing was broken"]
pub enum Break {
    /// The lock was taken from its holder and is free.
    Broken,
    /// The record is not the one that was seen; this is it now.
    Changed(Option<Holder>),
}
