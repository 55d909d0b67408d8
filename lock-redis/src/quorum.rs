//! A majority of independent servers decides: the Redlock algorithm, extended by rising tokens.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{FutureExt, future::select_all};
use lock_core::{
    Error, ErrorKind, FencingToken, Holder, LockName, LossReason,
    backend::{AcquireOutcome, AcquireRequest, Break, Grant, Lease, Listing, OddEntry, Release, Renewal, Watch},
};

pub(crate) use crate::ask::{Member, Quorum};
use crate::{
    deployment::Deployment,
    views::{all_of, alone, identities, most_frequent, same},
    watch::RedisWatch,
};

impl Quorum {
    /// The error if no majority answered in time.
    fn short<T>(&self, answers: Vec<Result<T, Error>>) -> Error {
        let failed = answers.iter().filter(|answer| answer.is_err()).count();
        let message = match failed {
            0 => "too few servers of the quorum confirmed in time; use a longer ttl".into(),
            failed => format!("{failed} of the {} servers of the quorum did not answer", self.servers().len()),
        };
        let error = Error::new(ErrorKind::Unavailable, message);
        match answers.into_iter().find_map(Result::err) {
            Some(source) => error.with_source(source),
            None => error,
        }
    }

    pub(crate) async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        let longer = request.clone().with_ttl(with_drift(request.ttl));
        let answers = self
            .ask(
                Some(request.ttl),
                |outcome| Some(matches!(outcome, AcquireOutcome::Granted(_))),
                |server| {
                    let request = longer.clone();
                    async move { server.acquire(&request).await }
                },
            )
            .await;
        let grants: Vec<&Grant> = answers
            .iter()
            .filter_map(|answer| match answer {
                Ok(AcquireOutcome::Granted(grant)) => Some(grant),
                _ => None,
            })
            .collect();
        if grants.len() >= self.majority()
            && let Some(token) = grants.iter().filter_map(|grant| grant.token).max()
            && self.advance_token(&request.lease(Some(token)), token).await.is_ok_and(|raised| raised)
        {
            return Ok(AcquireOutcome::Granted(
                Grant::default()
                    .with_token(token)
                    // A server of this majority knows the token of the last grant. A larger one is
                    // that of an attempt which was rolled back, mostly of another process.
                    .with_previous_token(grants.iter().filter_map(|grant| grant.previous_token).max())
                    .with_crashed(self.crashed(&grants))
                    .with_already_ours(grants.iter().filter(|grant| grant.already_ours).count() >= self.majority()),
            ));
        }
        // On every server, because a server that did not answer may have granted the lock.
        self.ask(
            Some(request.ttl),
            |_| Some(()),
            |server| {
                let request = request.clone();
                async move { server.roll_back(&request).await }
            },
        )
        .await;
        let holders = answers.iter().filter_map(|answer| match answer {
            Ok(AcquireOutcome::Contended(holder)) => Some(holder.clone()),
            _ => None,
        });
        let holders: Vec<_> = holders.collect();
        match self.held_by_majority(&holders).or_else(|| most_frequent(holders)) {
            // While a majority is silent, a single refusal says nothing about the lock.
            Some(holder) if answers.iter().flatten().count() >= self.majority() => {
                Ok(AcquireOutcome::Contended(holder))
            }
            _ => Err(self.short(answers)),
        }
    }

    /// The holder before this grant, if it crashed. A server that missed the release of a holder
    /// names it too, so the majority decides.
    fn crashed(&self, grants: &[&Grant]) -> Option<Holder> {
        let crashed = most_frequent(grants.iter().filter_map(|grant| grant.crashed.clone()).collect())?;
        let named = |grant: &&&Grant| grant.crashed.as_ref().is_some_and(|other| same(other, &crashed));
        let others = grants.len() - grants.iter().filter(named).count();
        (others < self.majority()).then_some(crashed)
    }

    /// Tells every server the largest token that any of them has minted.
    ///
    /// Any later majority includes a server that knows this token, and so mints a larger one.
    pub(crate) async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        let ask = |server: Arc<Deployment>| {
            let lease = lease.clone();
            async move { server.advance_token(&lease, token).await }
        };
        let answers = self.ask(Some(lease.ttl), |&raised| Some(raised), ask).await;
        let raised = answers.iter().filter(|raised| matches!(raised, Ok(true))).count();
        if raised < self.majority() && answers.iter().any(Result::is_err) {
            return Err(self.short(answers));
        }
        Ok(raised >= self.majority())
    }

    pub(crate) async fn renew_many(&self, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        let longer: Vec<_> = leases.iter().map(|lease| lease.clone().with_ttl(with_drift(lease.ttl))).collect();
        let shortest = leases.iter().map(|lease| lease.ttl).min();
        let ask = |server: Arc<Deployment>| {
            let leases = longer.clone();
            async move {
                let mut renewals = server.renew_many(&leases).await;
                match renewals.iter().all(Result::is_err).then(|| renewals.pop()).flatten() {
                    Some(Err(error)) => Err(error),
                    _ => Ok(renewals),
                }
            }
        };
        let renewed = |renewal: &Result<Renewal, Error>| Some(*renewal.as_ref().ok()? == Renewal::Renewed);
        let answers = self.ask(shortest, |all: &Vec<_>| all.iter().map(renewed).collect::<Option<Vec<_>>>(), ask).await;
        let renewals: Vec<_> =
            (0..leases.len()).map(|i| self.renewal(answers.iter().flatten().map(|all| &all[i]))).collect();
        self.repair(&longer, &answers, &renewals, self.limit(shortest)).await;
        renewals
    }

    /// What the answers of the servers mean for one lease.
    fn renewal<'a>(&self, answers: impl Iterator<Item = &'a Result<Renewal, Error>>) -> Result<Renewal, Error> {
        let (mut renewed, mut lost) = (0, Vec::new());
        for answer in answers {
            match answer {
                Ok(Renewal::Renewed) => renewed += 1,
                // A break that has not reached every server is still a break.
                Ok(Renewal::Lost(broken @ LossReason::BrokenBy(_))) => return Ok(Renewal::Lost(broken.clone())),
                Ok(Renewal::Lost(reason)) => lost.push(reason.clone()),
                Err(_) => {}
            }
        }
        match lost.len() {
            _ if renewed >= self.majority() => Ok(Renewal::Renewed),
            // The silent servers cannot complete a majority any more.
            n if n > self.servers().len() - self.majority() => {
                Ok(Renewal::Lost(lost.into_iter().max_by_key(how_much_it_says).expect("at least one")))
            }
            _ => Err(Error::new(
                ErrorKind::Unavailable,
                format!("only {renewed} of the {} servers of the quorum renewed the lease", self.servers().len()),
            )),
        }
    }

    pub(crate) async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        let ask = |server: Arc<Deployment>| {
            let lease = lease.clone();
            async move { server.release(&lease, hold_for).await }
        };
        let answers = self.ask(Some(lease.ttl), |release| Some(*release == Release::Released), ask).await;
        let answered = answers.iter().flatten().count();
        let released = answers.iter().filter(|answer| matches!(answer, Ok(Release::Released))).count();
        if released >= self.majority() {
            return Ok(Release::Released);
        }
        if answered < self.majority() || released > 0 && answered < self.servers().len() {
            return Err(self.short(answers));
        }
        let holders = answers.into_iter().flatten().filter_map(|answer| match answer {
            Release::NotHeld(holder) => holder,
            Release::Released => None,
        });
        let holders: Vec<_> = holders.collect();
        Ok(Release::NotHeld(self.held_by_majority(&holders).or_else(|| most_frequent(holders))))
    }

    pub(crate) async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        let ask = |server: Arc<Deployment>| async move { server.inspect(name).await };
        let answers = self.ask(None, |holder| Some(holder.as_ref().map(identities)), ask).await;
        if answers.iter().flatten().count() < self.majority() {
            return Err(self.short(answers));
        }
        let holders: Vec<_> = answers.into_iter().flatten().flatten().collect();
        Ok(self.held_by_majority(&holders))
    }

    pub(crate) async fn purge(&self, name: &LockName) -> Result<bool, Error> {
        // Decided by all servers only.
        let ask = |server: Arc<Deployment>| async move { server.purge(name).await };
        let answers = self.ask(None, |_| None::<()>, ask).await;
        if answers.iter().any(Result::is_err) {
            return Err(self.short(answers));
        }
        Ok(answers.into_iter().flatten().all(|forgotten| forgotten))
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let ask = |server: Arc<Deployment>| async move { server.list(prefix).await };
        let names = |all: &Listing| {
            Some(all.locks.iter().map(|(name, holder)| (name.clone(), identities(holder))).collect::<Vec<_>>())
        };
        let answers = self.ask(None, names, ask).await;
        if answers.iter().flatten().count() < self.majority() {
            return Err(self.short(answers));
        }
        let mut listing = Listing::default();
        for (server, answer) in self.servers().iter().zip(&answers) {
            if let Ok(answer) = answer {
                listing.note_odd_of(answer, |entry| {
                    OddEntry::new(format!("{} on {}", entry.place, server.address), &*entry.reason)
                });
            }
        }
        listing.locks = self.held_in(answers.into_iter().flatten().flat_map(|answer| answer.locks).collect());
        Ok(listing)
    }

    /// Returns the locks that a majority has, from the lists of all servers.
    pub(crate) fn held_in(&self, mut all: Vec<(LockName, Holder)>) -> Vec<(LockName, Holder)> {
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        let groups = all.chunk_by(|(a, _), (b, _)| a == b);
        groups
            .filter_map(|group| {
                let holders: Vec<_> = group.iter().map(|(_, holder)| holder.clone()).collect();
                Some((group[0].0.clone(), self.held_by_majority(&holders)?))
            })
            .collect()
    }

    /// Returns the holders that a majority names, from what each server says.
    fn held_by_majority(&self, views: &[Holder]) -> Option<Holder> {
        let names = |view: &Holder, one: &Holder| all_of(view).any(|holder| same(holder, one));
        let count = |one: &Holder| views.iter().filter(|view| names(view, one)).count();
        let mut named: Vec<Holder> = Vec::new();
        for holder in views.iter().flat_map(all_of) {
            if count(holder) >= self.majority() && !named.iter().any(|known| same(known, holder)) {
                named.push(alone(holder));
            }
        }
        // A majority has at least so many, of which each server names the first to expire.
        let mut counts: Vec<_> = views.iter().map(Holder::count).collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let total = counts.get(self.majority() - 1).copied().unwrap_or(0);
        if named.is_empty() && total > Holder::MOST_OTHERS as u64 {
            named.extend(views.first().map(alone));
        }
        let holder = Holder::of_several(named)?;
        let more = holder.more.max(total.saturating_sub(1 + holder.others.len() as u64));
        Some(holder.with_more(more))
    }

    pub(crate) async fn break_lock(&self, name: &LockName, version: &str, by: &str) -> Result<Break, Error> {
        let ask = |server: Arc<Deployment>| async move { server.break_lock(name, version, by, false).await };
        let answers = self.ask(None, |broken| Some(*broken == Break::Broken), ask).await;
        if answers.iter().flatten().count() < self.majority() {
            return Err(self.short(answers));
        }
        // A break on one server may end a majority that did not include all servers.
        if answers.iter().any(|answer| matches!(answer, Ok(Break::Broken))) {
            // A renewal in flight must not set the lock again on a server that lacked it.
            let trace = |server: Arc<Deployment>| async move { server.break_lock(name, version, by, true).await };
            self.ask(None, |_| Some(()), trace).await;
            return Ok(Break::Broken);
        }
        let holders = answers.into_iter().flatten().filter_map(|answer| match answer {
            Break::Changed(holder) => holder,
            Break::Broken => None,
        });
        Ok(Break::Changed(self.held_by_majority(&holders.collect::<Vec<_>>())))
    }

    pub(crate) async fn watch(&self, name: &LockName) -> Result<QuorumWatch, Error> {
        let answers = self
            .ask(
                None,
                |_| Some(()),
                |server| {
                    let name = name.clone();
                    async move { RedisWatch::queue(server, &name).await }
                },
            )
            .await;
        if answers.iter().flatten().count() < self.majority() {
            return Err(self.short(answers));
        }
        Ok(QuorumWatch(answers.into_iter().flatten().collect()))
    }
}

/// The ttl that the servers receive. Their clocks may run faster than the holder's by 1 % and 2 ms,
/// and the lease must last its whole ttl on the holder's clock.
fn with_drift(ttl: Duration) -> Duration {
    ttl + ttl / 100 + Duration::from_millis(2)
}

/// Ranks loss reasons: a server that lost the record knows least about the end of the lock.
fn how_much_it_says(reason: &LossReason) -> u8 {
    match reason {
        LossReason::RecordGone => 0,
        LossReason::Expired => 1,
        LossReason::TakenBy(_) => 2,
        _ => 3,
    }
}

/// Completes when the watch on any server completes.
#[derive(Debug)]
pub(crate) struct QuorumWatch(Vec<RedisWatch>);

#[async_trait]
impl Watch for QuorumWatch {
    async fn changed(&mut self) {
        select_all(self.0.iter_mut().map(|watch| async move { watch.changed().await }.boxed())).await;
    }
}
