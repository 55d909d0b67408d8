//! The contract between the core and a store, for authors of backends. Users hold a
//! [`Locker`](crate::Locker).

mod admin;
mod answers;
mod capabilities;
mod finding;
mod listing;
mod observations;
mod own_limits;
mod past;
mod process_bound;
mod relay;
mod request;
mod store_clock;
mod texts;
mod turns;
mod waiting_marks;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::join_all;

pub use self::{
    admin::Admin,
    answers::{AcquireOutcome, Break, Grant, Release, Renewal},
    capabilities::{Capabilities, Capability, StoreTimings, UnknownCapability},
    finding::{Finding, Level},
    listing::{Listing, OddEntry},
    observations::Observations,
    own_limits::own_limit,
    past::{End, PastHolder},
    process_bound::ProcessBound,
    relay::{Relay, Relayed},
    request::AcquireRequest,
    store_clock::{StoreClock, StoreTime},
    texts::{causes, one_line},
    turns::{FoundOnce, Turns},
    waiting_marks::WaitingMarks,
};
use crate::types::{Error, ErrorKind, FencingToken, LockName, Operation};
pub use crate::types::{InvalidLeaseId, Lease, LeaseId, Mode, Process};

/// A store of locks: one *attempt* to acquire, renew or release.
///
/// An implementation does not wait, retry in a loop, start background tasks or keep a clock.
/// Waiting, jitter, renewal, loss, drop and timeouts exist once, in the core. Each bullet below
/// names the case of the conformance suite (feature `testing`) that checks it.
///
/// # For all operations
/// - Any [`LockName`] works. Two different names are two locks, whatever the store folds, cuts or
///   forbids (`unusual_names_are_kept_as_distinct_locks`).
/// - The future may be dropped at any await point. The core follows up with
///   [`release`](Self::release) of the same id (`a_cancelled_acquire_leaves_no_lock_behind`).
/// - An error means that the outcome is unknown or that nothing was done, and
///   [`is_ambiguous`](Error::is_ambiguous) tells which. Contention is never an error
///   (`a_held_lock_refuses_other_lease_ids`, `exactly_one_of_many_contenders_acquires`).
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Returns the store as a config string without secrets, for messages, logs and metrics.
    fn describe(&self) -> String;

    /// Returns what this backend, as configured, can do.
    fn capabilities(&self) -> Capabilities;

    /// Returns the polling, renewal and timeout settings for this store.
    fn timings(&self) -> StoreTimings;

    /// Tries once to acquire `request.name`.
    ///
    /// - Grants a free name (`acquiring_a_free_lock_grants_it`), and from then on refuses every
    ///   other id, from this client and others (`a_held_lock_refuses_other_lease_ids`,
    ///   `two_clients_never_hold_the_same_lock`). Of many contenders at once exactly one wins, or
    ///   none where several servers vote (`exactly_one_of_many_contenders_acquires`).
    /// - A refusal reports the holder with owner, data, token and start, where the capability
    ///   `holder` is declared (`a_refusal_reports_the_current_holder`).
    /// - Is idempotent on `request.id`. While that id holds the lock, acquiring again grants it
    ///   again, with the same token and [`already_ours`](Grant::already_ours). Where there is a
    ///   ttl, a whole ttl begins (`acquiring_again_with_the_same_id_succeeds`).
    /// - Refuses a duplicate request that arrives after its id was released, while another client
    ///   holds the lock. Otherwise the duplicate may be granted, with a token of its own. It then
    ///   ends with its ttl, because no client renews it (`a_late_acquire_leaves_no_lasting_lock`).
    ///   A store that can tell leaves no lock behind.
    /// - Every grant carries a token larger than all earlier ones, where the capability `fencing`
    ///   is declared: across release, expiry and break
    ///   (`fencing_tokens_increase_across_every_release`,
    ///   `fencing_tokens_increase_across_lease_expiry`,
    ///   `fencing_tokens_increase_across_a_forced_break`), also when a third party has deleted what
    ///   the store keeps of them (`fencing_tokens_increase_after_their_record_is_deleted`).
    /// - A grant that [reserves](AcquireRequest::reserved_tokens) further tokens, where the
    ///   capability `hand-over` is declared, carries the last of them. All of them are larger than
    ///   the tokens of earlier grants, and smaller than those of later ones: across release, expiry
    ///   and break (`reserved_tokens_lie_between_earlier_and_later_grants`).
    /// - A grant that shows [the previous token](Grant::previous_token) shows that of the latest
    ///   grant (`reserved_tokens_lie_between_earlier_and_later_grants`), or a larger one of a grant
    ///   that was rolled back. A repeated request shows none (`a_retry_finds_its_reserved_tokens`).
    /// - With a ttl, the lock is free once the holder's own ttl, as recorded, has passed on the
    ///   store's clock, and not before. If that clock may be wrong, the store declares by how much
    ///   in [`StoreTimings::least_margin`]. A contender's ttl does not matter
    ///   (`an_expired_lock_is_granted_in_one_attempt`,
    ///   `the_holders_ttl_decides_when_a_lock_expires`). One of the contenders takes over
    ///   (`exactly_one_contender_replaces_a_crashed_holder`).
    /// - The grant reports the holder before it if that one crashed
    ///   (`the_next_grant_reports_a_crashed_holder`), and only then
    ///   (`a_released_lock_reports_no_crashed_holder`).
    ///
    /// A [`Mode`] other than the exclusive one lets several ids hold one name. Every bullet above
    /// and below holds for each of them.
    /// - A mode without its capability is an error of kind [`ErrorKind::Unsupported`], before
    ///   anything is done. No store falls back to another mode
    ///   (`an_undeclared_mode_is_refused_and_leaves_no_lock`).
    /// - The holders of a name have one mode, and refuse the others
    ///   (`a_writer_and_readers_exclude_each_other`,
    ///   `different_modes_of_one_name_exclude_each_other`). Any number of ids hold a shared lock
    ///   (`readers_hold_a_shared_lock_together`), and as many as stated a permit
    ///   (`of_many_contenders_as_many_hold_as_permits`). A request that states another number of
    ///   permits than the present holders is an error of kind [`ErrorKind::Config`] that names both
    ///   numbers (`disagreeing_numbers_of_permits_are_an_error`).
    /// - A refused request that [`waits`](AcquireRequest::waits) keeps newcomers from joining the
    ///   holders (`later_readers_do_not_overtake_a_waiting_writer`,
    ///   `a_waiter_of_another_mode_is_not_overtaken`), until the release of its id
    ///   (`a_writer_that_gives_up_lets_readers_in`, `a_cancelled_wait_of_a_writer_lets_readers_in`)
    ///   or its ttl after its last attempt (`a_crashed_waiting_writer_lets_readers_in`). A request
    ///   that does not wait has no such effect (`a_writer_that_does_not_wait_keeps_no_reader_out`).
    /// - What ends one holder leaves the others alone: a crash
    ///   (`a_crash_frees_only_the_part_of_its_holder`), a release or a late request
    ///   (`late_requests_leave_other_holders_alone`), a minimum hold
    ///   (`min_hold_keeps_the_part_of_its_holder`) and a break
    ///   (`a_break_ends_the_part_of_one_holder`). A duplicate request that arrives after that joins
    ///   no other holder (`a_late_acquire_joins_no_other_holder`). A repetition takes no second
    ///   part (`a_retry_recognizes_its_own_part`), and a dropped future leaves none
    ///   (`a_cancelled_acquire_of_any_mode_leaves_no_part`,
    ///   `a_cancelled_wait_of_any_mode_leaves_no_part`,
    ///   `a_cancelled_release_of_any_mode_frees_its_part`,
    ///   `a_cancelled_renewal_of_any_mode_keeps_its_part`).
    /// - Tokens rise over the holders of all modes (`tokens_increase_over_holders_of_all_modes`).
    /// - A refusal and [`Admin::inspect`] say how many hold the lock, and name them, the first to
    ///   expire first (`a_refusal_counts_and_names_several_holders`).
    ///
    /// Where the capability `fair` is declared, a refused request that is
    /// [`fair`](AcquireRequest::fair) and [`waits`](AcquireRequest::waits) takes a place at the end
    /// of the name's queue.
    /// - Places are served in their order (`fair_requests_are_granted_in_their_order`,
    ///   `fair_waiters_of_many_lockers_are_served_in_order`), also after a crash of the holder
    ///   (`fair_waiters_keep_their_order_after_a_crash`). A request without a place, fair or
    ///   not, is refused while one is ahead, also if the lock is free
    ///   (`a_newcomer_does_not_overtake_a_fair_waiter`).
    /// - A request waits for each place ahead of it with which it cannot share the lock. A reader
    ///   waits behind a writer (`readers_wait_behind_a_fair_writer`). A permit waits behind the
    ///   places that get the free permits (`permits_are_granted_in_their_order`). A place of the
    ///   holders' mode keeps no reader out.
    /// - A writer that waited for readers before the first place was taken comes before the queue
    ///   (`a_queue_and_a_waiting_writer_do_not_block_each_other`).
    /// - A repetition keeps its place (`a_repeated_fair_request_keeps_its_place`). A request that
    ///   does not wait has none (`a_fair_request_that_does_not_wait_has_no_place`).
    /// - A place ends with the grant, and with a release of its id
    ///   (`a_fair_waiter_that_gives_up_is_skipped`, `a_cancelled_fair_wait_is_skipped`,
    ///   `a_cancelled_fair_wait_of_any_mode_leaves_no_place`). Otherwise it ends its ttl after its
    ///   last attempt (`a_dead_fair_waiter_is_skipped_after_its_ttl`). So does the place of a
    ///   request that arrives late, unless the store can tell
    ///   (`a_late_fair_request_keeps_the_lock_for_a_ttl_at_most`).
    ///
    /// # Errors
    /// When the store cannot say; never because the lock is held.
    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error>;

    /// Renews `lease` once: it then lasts `lease.ttl` from the store's now.
    ///
    /// - A held lease is [`Renewed`](Renewal::Renewed), and lasts longer
    ///   (`renewing_keeps_the_lease_past_its_ttl`). Renewing again has the same result
    ///   (`renewing_a_lease_repeatedly_is_idempotent`).
    /// - A lease that is no longer held is [`Lost`](Renewal::Lost), with the reason, and is never
    ///   revived (`renewing_a_released_lease_reports_its_loss`,
    ///   `renewing_an_expired_lease_leaves_its_successor_alone`,
    ///   `the_next_renewal_reports_a_broken_lease`). The same holds when a third party has deleted
    ///   or replaced its record (`the_next_renewal_reports_a_deleted_record`,
    ///   `a_replaced_record_belongs_to_another_client`).
    ///
    /// # Errors
    /// When the store cannot say.
    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error>;

    /// Raises the token of a held lock to `token`; all later tokens are larger. `false` when
    /// `lease` does not hold the lock. A smaller `token` changes nothing.
    ///
    /// A lock that consists of locks in several stores needs this: their tokens have to agree.
    ///
    /// - The next token is larger than the raised one (`the_next_token_exceeds_an_advanced_token`,
    ///   `the_next_token_exceeds_an_advanced_part`).
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where tokens cannot be raised; else when the store cannot say.
    async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        let _ = token;
        Err(unsupported(self, "raising a token").with_operation(Operation::Acquire).with_name(&lease.name))
    }

    /// Releases `lease` once. With `hold_for` above zero the store refuses the lock to every client
    /// for that long, and then frees it.
    ///
    /// - The lock is free at once for others (`a_released_lock_can_be_acquired_again`), or after
    ///   `hold_for` (`min_hold_keeps_the_lock_after_release`).
    /// - Compares the id, and never touches a successor's lock. A lock that this id does not hold
    ///   is [`NotHeld`](Release::NotHeld), a value (`a_late_release_leaves_the_successor_alone`,
    ///   `releasing_twice_is_never_an_error`), also after a break
    ///   (`releasing_a_broken_lease_reports_not_held`).
    /// - Works for an id whose acquire was refused, lost or never sent
    ///   (`releasing_a_lease_never_granted_is_no_error`).
    ///
    /// # Errors
    /// When the store cannot say.
    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error>;

    /// Renews several leases, and returns one result for each, in order. The core passes at most
    /// [`StoreTimings::renew_batch`] at once.
    ///
    /// - A lost lease affects the result of no other one
    ///   (`renewing_many_leases_reports_each_one_separately`,
    ///   `renewing_many_parts_reports_each_one_separately`).
    async fn renew_many(&self, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        join_all(leases.iter().map(|lease| self.renew(lease))).await
    }

    /// Starts to watch for `name` becoming free; `None` when this store cannot tell, and the core
    /// polls.
    ///
    /// - A release after this call completes the [`Watch::changed`] of at least one watcher of the
    ///   name, so of the only one there is (`a_watch_completes_after_the_release`). A store may
    ///   wake the watchers one by one. A watch may also complete without a release. But if the
    ///   watch of a free lock completes at once, a process leaves less time to the others.
    /// - A watcher that was woken and is dropped before it acquires passes the wake-up on to
    ///   another (`an_unused_wake_up_reaches_another_watcher`).
    ///
    /// The core relies on neither. A waiter that is not woken asks again at the holder's expiry,
    /// and after [`StoreTimings::poll_max`] at the latest.
    ///
    /// # Errors
    /// When watching fails. The core then polls, and tries to watch again with every attempt.
    async fn watch(&self, name: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        let _ = name;
        Ok(None)
    }

    /// Starts to watch for the turn of `request`, which is fair and has a place in the queue. The
    /// core calls it instead of [`watch`](Self::watch), whose promises it keeps. Default: watches
    /// the name.
    ///
    /// - The release that makes it the turn of `request` completes it
    ///   (`fair_waiters_of_many_lockers_are_served_in_order`).
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    async fn watch_place(&self, request: &AcquireRequest) -> Result<Option<Box<dyn Watch>>, Error> {
        self.watch(&request.name).await
    }

    /// Returns the half of the contract that operators need; `None` when this store has none of it.
    ///
    /// - It is present where one of the capabilities `inspect`, `list` and `break` is declared
    ///   (`operators_calls_are_there_where_declared`).
    fn admin(&self) -> Option<&dyn Admin> {
        None
    }

    /// Returns the half of the contract for locks that live in this process; `None` when a lock
    /// ends by its ttl alone.
    fn process_bound(&self) -> Option<&dyn ProcessBound> {
        None
    }

    /// Returns the half of the contract that releases and acquires in one request; `None` when this
    /// store takes two.
    fn relay(&self) -> Option<&dyn Relay> {
        None
    }

    /// Opens the same store anew, for a child process made by `fork`. A child must not use the
    /// connections, the open files and the tasks of its parent.
    ///
    /// The core calls it in the child, at the first use of a [`Locker`](crate::Locker) that was
    /// opened before the fork. Nothing of the parent may be locked, awaited or closed. A store
    /// whose locks would not exclude the parent returns an error.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where this is not possible, as without an own implementation.
    fn reopen(&self) -> Result<Arc<dyn Backend>, Error> {
        let message = "this store was opened before a fork; open it again in the child process";
        Err(Error::new(ErrorKind::Unsupported, message).with_store(self.describe()))
    }

    /// Checks how the store is set up: whether it is fit for locks, and what to change.
    ///
    /// A fact that cannot be found out, because the store does not answer or a permission is
    /// missing, is a finding too, and never [`Unfit`](crate::backend::Level::Unfit). It need not
    /// try locks: `onelock doctor` does that, on every store.
    ///
    /// - Finds nothing unfit on a store that keeps its promises, and changes no lock
    ///   (`diagnose_finds_the_store_fit_and_changes_nothing`).
    async fn diagnose(&self) -> Vec<Finding> {
        Vec::new()
    }
}

impl dyn Backend {
    /// Returns the operators' half.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Unsupported`] when this store has none.
    pub fn require_admin(&self) -> Result<&dyn Admin, Error> {
        self.admin().ok_or_else(|| unsupported(self, "looking at the locks of others"))
    }
}

/// Returns the error for a mode that a store does not know.
pub(crate) fn unsupported_mode(mode: Mode) -> Error {
    let capability = if mode == Mode::Shared { "shared" } else { "permits" };
    let message =
        format!("a lock that is {mode} is not possible on this store; choose one with the capability \"{capability}\"");
    Error::new(ErrorKind::Unsupported, message).with_ambiguous(false).with_operation(Operation::Acquire)
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

    async fn watch_place(&self, request: &AcquireRequest) -> Result<Option<Box<dyn Watch>>, Error> {
        (**self).watch_place(request).await
    }

    fn admin(&self) -> Option<&dyn Admin> {
        (**self).admin()
    }

    fn process_bound(&self) -> Option<&dyn ProcessBound> {
        (**self).process_bound()
    }

    fn relay(&self) -> Option<&dyn Relay> {
        (**self).relay()
    }

    fn reopen(&self) -> Result<Arc<dyn Backend>, Error> {
        (**self).reopen()
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
    /// Cancel safe: a change that no call has returned yet completes the next one.
    async fn changed(&mut self);
}
