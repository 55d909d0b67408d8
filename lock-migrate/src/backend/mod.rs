//! A backend made of two.

mod operators;
mod process_bound;

use std::{fmt, iter::repeat_with, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::{join, join_all};
use lock_core::{
    ConfigString, Error, ErrorKind, FencingToken, Holder, LockName, LossReason,
    backend::{
        AcquireOutcome, AcquireRequest, Admin, Backend, Capabilities, Finding, Grant, Lease, ProcessBound, Relay,
        Release, Renewal, StoreTimings, Watch,
    },
};

use crate::{
    holders::{merged, those_of},
    taken::{Side, State, Taken, TakenLocks},
    watch::MigrationWatch,
};

/// Two stores as one; see the documentation of the [crate].
pub struct MigrationBackend {
    from: Arc<dyn Backend>,
    to: Arc<dyn Backend>,
    /// The ttl of the locks in the one store that has ttls, where the other has none.
    lease: Duration,
    taken: TakenLocks,
}

const DEFAULT_LEASE: Duration = Duration::from_secs(30);

impl MigrationBackend {
    /// Combines two stores, which must not be the same.
    pub fn new(from: Arc<dyn Backend>, to: Arc<dyn Backend>) -> Self {
        Self { from, to, lease: DEFAULT_LEASE, taken: TakenLocks::default() }
    }

    /// Where only one of the stores has ttls: that of its locks. Default 30 s.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Whether only one of the stores has ttls.
    pub(crate) fn is_mixed(&self) -> bool {
        self.from.capabilities().ttl != self.to.capabilities().ttl
    }

    fn side(&self, side: Side) -> &dyn Backend {
        match side {
            Side::From => &*self.from,
            Side::To => &*self.to,
        }
    }

    /// The ttl of a lock in a store that has ttls.
    fn ttl(&self, chosen: Duration) -> Duration {
        if self.is_mixed() { self.lease } else { chosen }
    }

    /// The lease in one of the stores.
    fn half(&self, lease: &Lease, taken: Taken, side: Side) -> Lease {
        lease.clone().with_id(taken.half(side).id).with_ttl(self.ttl(lease.ttl))
    }

    async fn try_side(&self, side: Side, request: &AcquireRequest, taken: &mut Taken) -> Result<AcquireOutcome, Error> {
        let half = request.clone().with_id(taken.half(side).id).with_ttl(self.ttl(request.ttl));
        let before = *taken;
        taken.set(side, State::Lock);
        self.taken.put(request.id, &request.name, *taken);
        let answer = self.side(side).acquire(&half).await;
        match &answer {
            Ok(AcquireOutcome::Granted(_)) => {}
            // The mark of an earlier attempt stays, too. The core releases the id after such a
            // refusal.
            Ok(AcquireOutcome::Contended(holder))
                if before.half(side).state == State::Mark
                    // A store that found no holder any more may still have set a mark.
                    || request.waits && (holder.mode != request.mode || *holder == Holder::default()) =>
            {
                taken.set(side, State::Mark);
            }
            // An earlier request of this id may still arrive. `undo` releases the id.
            Ok(AcquireOutcome::Contended(_)) if before.half(side).state == State::Lock => {}
            Ok(AcquireOutcome::Contended(_)) => taken.clear(side),
            Err(error) if error.is_ambiguous() => {}
            Err(_) => *taken = before,
        }
        self.taken.put(request.id, &request.name, *taken);
        answer
    }

    /// Releases the locks that an attempt acquired. The marks of a waiting request stay.
    async fn undo(&self, request: &AcquireRequest) -> Result<(), Error> {
        let is_lock = |state| state == State::Lock;
        self.release_halves(&request.lease(None), Duration::ZERO, is_lock).await.map(drop)
    }

    /// Releases what is left in the two stores in a state that `is_meant`.
    async fn release_halves(
        &self,
        lease: &Lease,
        hold_for: Duration,
        is_meant: impl Fn(State) -> bool + Send,
    ) -> Result<Release, Error> {
        let Some(mut taken) = self.taken.find(lease) else { return Ok(Release::NotHeld(None)) };
        let (mut missing, mut failed) = (None, None);
        for side in [Side::To, Side::From] {
            if !is_meant(taken.half(side).state) {
                continue;
            }
            let half = self.half(lease, taken, side);
            // Before the request, because it may arrive late, also if this future is dropped.
            taken.set(side, State::Ending);
            self.taken.put(lease.id, &lease.name, taken);
            match self.side(side).release(&half, hold_for).await {
                Ok(answer) => {
                    if let Release::NotHeld(holder) = answer {
                        missing = Some(holder);
                    }
                    taken.clear(side);
                    self.taken.put(lease.id, &lease.name, taken);
                }
                // The other lock is still released, because it may have no ttl that ends it.
                Err(error) => failed = Some(error),
            }
        }
        match (failed, missing) {
            (Some(error), _) => Err(error.with_ambiguous(true)),
            (None, Some(holder)) => Ok(Release::NotHeld(holder)),
            (None, None) => Ok(Release::Released),
        }
    }

    /// Releases the locks of a failed attempt, and returns its error.
    async fn failed(&self, request: &AcquireRequest, error: Error) -> Error {
        let undone = self.undo(request).await.is_ok();
        error.with_ambiguous(!undone)
    }

    /// Makes the tokens agree: the larger one is used, and the other store continues above it.
    async fn agree(
        &self,
        lease: &Lease,
        taken: Taken,
        tokens: [Option<FencingToken>; 2],
    ) -> Result<Option<FencingToken>, Error> {
        let [Some(from), Some(to)] = tokens else { return Ok(None) };
        let token = from.max(to);
        for (side, minted) in [(Side::From, from), (Side::To, to)] {
            if minted < token && !self.side(side).advance_token(&self.half(lease, taken, side), token).await? {
                let message = "the lock was lost while it was being acquired in both stores; try again";
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
        }
        Ok(Some(token))
    }

    /// After the loss of a part, lets go of what is left.
    async fn let_go(&self, lease: &Lease) {
        if let Err(error) = self.release(lease, Duration::ZERO).await {
            tracing::warn!(name = %lease.name, %error, "one of the two locks was lost, and the other could not be \
                released");
        }
    }

    /// Returns the renewal of a lock whose parts were renewed with these answers.
    async fn renewed(
        &self,
        lease: &Lease,
        from: Result<Renewal, Error>,
        to: Result<Renewal, Error>,
    ) -> Result<Renewal, Error> {
        let reason = match (from, to) {
            (Ok(Renewal::Renewed), Ok(Renewal::Renewed)) => return Ok(Renewal::Renewed),
            // Who broke it says more than that it is gone.
            (_, Ok(Renewal::Lost(reason @ LossReason::BrokenBy(_)))) => reason,
            (Ok(Renewal::Lost(reason)), _) | (_, Ok(Renewal::Lost(reason))) => reason,
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        self.let_go(lease).await;
        Ok(Renewal::Lost(reason))
    }

    /// Returns the holder of a lock that one store refused. A break needs the versions of both
    /// stores, so the other store is asked for its own.
    async fn refused_by(&self, side: Side, name: &LockName, holder: Holder) -> Holder {
        // A store that found no holder any more may have set a mark. The core releases the mark
        // only if this refusal names no holder either.
        if holder == Holder::default() {
            return holder;
        }
        let other = if side == Side::From { &self.to } else { &self.from };
        let mut seen = None;
        if let Some(admin) = other.admin().filter(|_| self.capabilities().break_lock) {
            seen = admin.inspect(name).await.ok().flatten().and_then(|seen| those_of(seen, &holder));
        }
        let (from, to) = if side == Side::From { (Some(holder), seen) } else { (seen, Some(holder)) };
        merged(from, to).unwrap_or_default()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods, reason = "a wrapper that forgets a method hides what the stores can do")]
impl Backend for MigrationBackend {
    fn describe(&self) -> String {
        describe(&self.from.describe(), &self.to.describe())
    }

    fn capabilities(&self) -> Capabilities {
        let (from, to) = (self.from.capabilities(), self.to.capabilities());
        Capabilities::default()
            .with_ttl(from.ttl && to.ttl)
            .with_fencing(from.fencing && to.fencing)
            .with_loss_signal(from.loss_signal && to.loss_signal)
            .with_holder(from.holder && to.holder)
            .with_inspect(from.inspect && to.inspect)
            .with_list(from.list && to.list)
            .with_break_lock(from.break_lock && to.break_lock)
            .with_wake_up(from.wake_up && to.wake_up)
            .with_shared(from.shared && to.shared)
            .with_permits(from.permits && to.permits)
    }

    fn timings(&self) -> StoreTimings {
        let (from, to) = (self.from.timings(), self.to.timings());
        let own = self.is_mixed().then_some(self.lease);
        let poll_max = from.poll_max.min(to.poll_max);
        StoreTimings::default()
            .with_poll_min(from.poll_min.max(to.poll_min).min(poll_max))
            // Long pauses are for those who are woken.
            .with_poll_max(if self.capabilities().wake_up {
                poll_max
            } else {
                poll_max.min(StoreTimings::default().poll_max)
            })
            .with_probe_every(from.probe_every.min(to.probe_every))
            .with_lease([from.lease, to.lease, own].into_iter().flatten().min())
            // Each store gets batches of its own size.
            .with_renew_batch(from.renew_batch.max(to.renew_batch))
            .with_attempt_timeout(from.attempt_timeout + to.attempt_timeout)
            .with_least_margin(from.least_margin.max(to.least_margin))
            .with_least_ttl(from.least_ttl.max(to.least_ttl))
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        if !self.capabilities().has_mode(request.mode) {
            request.require_exclusive()?;
        }
        let shortest = [self.from.timings().lease, self.to.timings().lease].into_iter().flatten().min();
        let expires = self.from.capabilities().ttl || self.to.capabilities().ttl;
        if let Some(lease) = shortest.filter(|lease| expires && self.ttl(request.ttl) > *lease) {
            let message =
                format!("one of the two stores keeps locks for {lease:?} only; choose a ttl or lease of at most that");
            return Err(Error::new(ErrorKind::Config, message).with_ambiguous(false));
        }
        // Otherwise a late release would end a lock that the same id acquires again.
        self.release_halves(&request.lease(None), Duration::ZERO, |state| state == State::Ending).await?;
        let mut taken = self.taken.begin(request.id, &request.name);
        let mut grants: [Grant; 2] = Default::default();
        for (side, grant) in [Side::From, Side::To].into_iter().zip(&mut grants) {
            match self.try_side(side, request, &mut taken).await {
                Ok(AcquireOutcome::Granted(granted)) => *grant = granted,
                Ok(AcquireOutcome::Contended(holder)) => {
                    // What an earlier attempt may have got in the other store too.
                    self.undo(request).await?;
                    return Ok(AcquireOutcome::Contended(self.refused_by(side, &request.name, holder).await));
                }
                Err(error) => return Err(self.failed(request, error).await),
            }
        }
        let [from, to] = grants;
        let token = match self.agree(&request.lease(None), taken, [from.token, to.token]).await {
            Ok(token) => token,
            Err(error) => return Err(self.failed(request, error).await),
        };
        let crashed = from.crashed.or(to.crashed);
        Ok(AcquireOutcome::Granted(
            Grant::default()
                .with_token(token)
                .with_crashed(crashed)
                .with_already_ours(from.already_ours && to.already_ours),
        ))
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        let Some(taken) = self.taken.find(lease) else { return Ok(Renewal::Lost(LossReason::RecordGone)) };
        let [from, to] = [Side::From, Side::To].map(|side| self.half(lease, taken, side));
        let (from, to) = join(self.from.renew(&from), self.to.renew(&to)).await;
        self.renewed(lease, from, to).await
    }

    async fn renew_many(&self, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        let taken: Vec<_> = leases.iter().map(|lease| self.taken.find(lease)).collect();
        let [from, to] = [Side::From, Side::To].map(|side| {
            let halves = leases.iter().zip(&taken).filter_map(|(lease, taken)| Some(self.half(lease, (*taken)?, side)));
            halves.collect::<Vec<_>>()
        });
        let (from, to) = join(renew_in_batches(&*self.from, &from), renew_in_batches(&*self.to, &to)).await;
        let mut answers = from.into_iter().zip(to);
        let renewals = leases.iter().zip(taken).map(|(lease, taken)| {
            let answer = taken.and_then(|_| answers.next());
            async move {
                match answer {
                    Some((from, to)) => self.renewed(lease, from, to).await,
                    None => Ok(Renewal::Lost(LossReason::RecordGone)),
                }
            }
        });
        join_all(renewals).await
    }

    async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        let Some(taken) = self.taken.find(lease) else { return Ok(false) };
        let [from, to] = [Side::From, Side::To].map(|side| self.half(lease, taken, side));
        let (from, to) = join(self.from.advance_token(&from, token), self.to.advance_token(&to, token)).await;
        Ok(from? && to?)
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        // A failed release may have left one of the two locks.
        self.release_halves(lease, hold_for, |state| state != State::Nothing).await
    }

    async fn watch(&self, name: &LockName) -> Result<Option<Box<dyn Watch>>, Error> {
        if !self.capabilities().wake_up {
            return Ok(None);
        }
        let (from, to) = (self.from.watch(name).await?, self.to.watch(name).await?);
        Ok(from.zip(to).map(|(from, to)| Box::new(MigrationWatch([from, to])) as Box<dyn Watch>))
    }

    /// Two stores have no common order, so no request has a place.
    async fn watch_place(&self, request: &AcquireRequest) -> Result<Option<Box<dyn Watch>>, Error> {
        self.watch(&request.name).await
    }

    fn relay(&self) -> Option<&dyn Relay> {
        // The order of the requests to two stores decides what a crash between them leaves.
        None
    }

    fn reopen(&self) -> Result<Arc<dyn Backend>, Error> {
        Ok(Arc::new(Self::new(self.from.reopen()?, self.to.reopen()?).lease(self.lease)))
    }

    async fn diagnose(&self) -> Vec<Finding> {
        let (from, to) = join(self.from.diagnose(), self.to.diagnose()).await;
        let about = |side: &'static str| {
            move |found: Finding| Finding { subject: format!("{side}: {}", found.subject), ..found }
        };
        from.into_iter().map(about("from")).chain(to.into_iter().map(about("to"))).collect()
    }

    fn admin(&self) -> Option<&dyn Admin> {
        let both = self.from.admin().is_some() && self.to.admin().is_some();
        both.then_some(self as &dyn Admin)
    }

    fn process_bound(&self) -> Option<&dyn ProcessBound> {
        Some(self)
    }
}

impl fmt::Debug for MigrationBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MigrationBackend").field("from", &self.from).field("to", &self.to).finish_non_exhaustive()
    }
}

/// Renews `leases` in batches that `store` takes. Returns as many answers.
async fn renew_in_batches(store: &dyn Backend, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
    let no_answer =
        || Err(Error::new(ErrorKind::Unavailable, "a store answered for fewer locks than it was asked for"));
    let batches = leases.chunks(store.timings().renew_batch.max(1)).map(|batch| async move {
        store.renew_many(batch).await.into_iter().chain(repeat_with(no_answer)).take(batch.len())
    });
    join_all(batches).await.into_iter().flatten().collect()
}

/// The config string of the two stores, whose own strings have no secrets.
fn describe(from: &str, to: &str) -> String {
    let both = ConfigString::parse("migrate:").and_then(|both| both.with_option("from", from)?.with_option("to", to));
    both.map_or_else(|_| "migrate:".into(), |both| both.expose())
}
