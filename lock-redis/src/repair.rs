//! Sets held locks again on servers of a quorum that lost them, as in a restart without data.
//!
//! Otherwise the servers forget a held lock one by one in a rolling restart, until another client
//! finds a majority without the lock.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::{join_all, select_ok};
use lock_core::{
    Error, Holder, LockName, LossReason,
    backend::{Lease, Renewal},
};
use redis::Value;

use crate::{
    deployment::{Deployment, millis},
    error::unexpected,
    quorum::{Member, Quorum},
    record,
    views::has_all,
};

/// The answers of one server to a renewal of several leases.
type Answers = Result<Vec<Result<Renewal, Error>>, Error>;

impl Quorum {
    /// Sets each lease that a majority has `renewals` for again where it was lost, and reports
    /// servers without it.
    ///
    /// A lease that is not set again within `limit` is left to the next renewal.
    pub(crate) async fn repair(
        &self,
        leases: &[Lease],
        answers: &[Answers],
        renewals: &[Result<Renewal, Error>],
        limit: Duration,
    ) {
        let held = || (0..leases.len()).filter(|&i| matches!(renewals[i], Ok(Renewal::Renewed)));
        let has =
            |server: usize, i: usize| matches!(&answers[server], Ok(all) if matches!(all[i], Ok(Renewal::Renewed)));
        let each = self.servers().iter().enumerate().map(|(server, member)| async move {
            let lacking: Vec<_> = held().filter(|&i| !has(server, i)).collect();
            let lost = lacking.iter().copied().filter(|&i| forgot(&answers[server], i));
            let restored = join_all(lost.map(|i| {
                let confirmed = self.servers().iter().enumerate().filter(move |(other, _)| has(*other, i));
                let restore = restore(member, confirmed.map(|(_, member)| member), &leases[i]);
                async move { tokio::time::timeout(limit, restore).await.is_ok_and(|set| set) }
            }));
            let restored = restored.await.into_iter().filter(|&set| set).count();
            member.report(restored, lacking.len() - restored);
        });
        join_all(each).await;
    }
}

impl Quorum {
    /// Counts for each server the locks that a majority has and that server lacks. `None` if the
    /// server did not answer.
    pub(crate) async fn lacking(&self) -> Vec<Option<usize>> {
        let ask = |server: Arc<Deployment>| async move { Ok(server.list("").await?.locks) };
        let lists = self.ask(None, |_| None::<()>, ask).await;
        let held = self.held_in(lists.iter().flatten().flatten().cloned().collect());
        let has = |list: &[(LockName, Holder)], name: &LockName, holder: &Holder| {
            list.binary_search_by(|(other, _)| other.cmp(name)).is_ok_and(|at| has_all(&list[at].1, holder))
        };
        let count = |list: &Vec<_>| held.iter().filter(|(name, holder)| !has(list, name, holder)).count();
        lists.iter().map(|list| list.as_ref().ok().map(count)).collect()
    }
}

/// Whether a server answered that it does not have lease `i`, and that no client ended it.
fn forgot(answers: &Answers, i: usize) -> bool {
    matches!(answers, Ok(all) if matches!(all[i], Ok(Renewal::Lost(LossReason::RecordGone | LossReason::Expired))))
}

/// Copies the record of `lease` from one of the servers that `confirmed` it. Returns whether
/// `member` has the lock now.
async fn restore(member: &Member, confirmed: impl Iterator<Item = &Member>, lease: &Lease) -> bool {
    let records = confirmed.map(|other| Box::pin(other.deployment.record(lease)));
    let Ok((record, _)) = select_ok(records).await else { return false };
    let stamp = member.deployment.stamps.next();
    member.deployment.restore(lease, &record, stamp).await.unwrap_or_else(|error| {
        tracing::debug!(server = member.address, name = %lease.name, %error, "lock not set again");
        false
    })
}

impl Member {
    /// Reports changes, because renewals are many.
    fn report(&self, restored: usize, lacking: usize) {
        let server = self.address.as_str();
        if restored > 0 {
            tracing::warn!(
                server,
                locks = restored,
                "held locks set again on a server of the quorum that had lost them"
            );
        }
        match (self.incomplete.swap(lacking > 0, Ordering::Relaxed), lacking) {
            (false, 1..) => tracing::warn!(
                server,
                locks = lacking,
                "a server of the quorum lacks locks that are held; check it before another server fails"
            ),
            (true, 0) => tracing::info!(server, "the server of the quorum has all locks of this process again"),
            _ => {}
        }
    }
}

impl Deployment {
    /// Reads the record of a lease that this server has.
    async fn record(&self, lease: &Lease) -> Result<Vec<u8>, Error> {
        if lease.mode.may_be_joined() {
            return self.record_of_part(lease).await;
        }
        let keys = [self.keys.lock(&lease.name)];
        let answer = self.connection.run(&self.scripts.inspect.call(&keys)).await?;
        match answer {
            Value::Array(items) => match items.into_iter().nth(1) {
                Some(Value::BulkString(record)) => Ok(record),
                other => Err(unexpected("the inspect script", &other.unwrap_or(Value::Nil))),
            },
            other => Err(unexpected("the inspect script", &other)),
        }
    }

    /// Sets a lock with the `record` of another server. Returns whether `lease` has the lock now.
    async fn restore(&self, lease: &Lease, record: &[u8], stamp: u64) -> Result<bool, Error> {
        let (Some(end), Some(token)) = (record::end_of(record, lease.id), lease.token) else { return Ok(false) };
        let (lock, id) = (self.keys.lock(&lease.name), lease.id.to_string());
        let mut keys = vec![lock.clone(), self.keys.token(&lock)];
        keys.extend(lease.mode.may_be_joined().then(|| self.keys.records(&lock)));
        keys.extend([self.keys.gone(&lock, &id), self.keys.broken(&lock, &id)]);
        let joined = lease.mode.may_be_joined();
        let script = if joined { &self.scripts.joined_restore } else { &self.scripts.restore };
        let mut call = script.call(&keys).arg(&id).arg(millis(lease.ttl)).arg(stamp).arg(token.get()).arg(end);
        if joined {
            call = call.arg(record::mode_text(lease.mode));
        }
        // Like an acquire, this request must not take effect after the release of its id.
        let mut sent = self.unanswered.sending(lease.id);
        let answer = self.connection.run(&call).await;
        sent.answered = !answer.as_ref().is_err_and(Error::is_ambiguous);
        match answer? {
            Value::Int(set) => Ok(set == 1),
            answer => Err(unexpected("the restore script", &answer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use lock_core::{
        LockName, Mode,
        backend::{AcquireRequest, LeaseId, Release},
    };
    use test_support::redis::RedisServer;

    use super::*;
    use crate::{Address, RedisConfig};

    const MODES: [Mode; 2] = [Mode::Exclusive, Mode::Shared];

    /// A server and a lease of it, with the record.
    async fn held(mode: Mode) -> (RedisServer, Deployment, Lease, Vec<u8>) {
        let server = RedisServer::start();
        let config = RedisConfig::standalone(Address::tcp("127.0.0.1", server.port()));
        let deployment = Deployment::new(&config.timeout(Duration::from_secs(10))).unwrap();
        let request = AcquireRequest::new(LockName::new("job").unwrap(), LeaseId::from(7), "etl").with_mode(mode);
        assert!(deployment.acquire(&request).await.is_ok());
        let record = deployment.record(&request.lease(None)).await.unwrap();
        let token = record::parse(&record).unwrap().token;
        (server, deployment, request.lease(token), record)
    }

    #[tokio::test]
    async fn a_late_repair_does_not_undo_a_release() {
        for (lost, mode) in [false, true].into_iter().flat_map(|lost| MODES.map(|mode| (lost, mode))) {
            let (server, deployment, lease, record) = held(mode).await;
            if lost {
                server.command(&["FLUSHALL"]);
            }
            let stamp = deployment.stamps.next();
            drop(deployment.unanswered.sending(lease.id));
            let released = deployment.release(&lease, Duration::ZERO).await.unwrap();
            assert_eq!(released, if lost { Release::NotHeld(None) } else { Release::Released });
            assert!(!deployment.restore(&lease, &record, stamp).await.unwrap());
            // Another client overwrites the mark in the token's key.
            let other = AcquireRequest::new(lease.name.clone(), LeaseId::from(8), "other");
            assert!(deployment.acquire(&other).await.is_ok());
            let other = other.lease(None);
            assert_eq!(deployment.release(&other, Duration::ZERO).await.unwrap(), Release::Released);
            assert!(!deployment.restore(&lease, &record, stamp).await.unwrap());
            assert_eq!(deployment.inspect(&lease.name).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_late_repair_does_not_undo_a_break() {
        for mode in MODES {
            let (server, deployment, lease, record) = held(mode).await;
            server.command(&["FLUSHALL"]);
            let _ = deployment.break_lock(&lease.name, &lease.id.to_string(), "alice", true).await.unwrap();
            assert!(!deployment.restore(&lease, &record, deployment.stamps.next()).await.unwrap());
            assert_eq!(deployment.inspect(&lease.name).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_repair_joins_no_holder_of_another_mode() {
        let permit = Mode::Permit { of: 2.try_into().unwrap() };
        for other in [Mode::Exclusive, permit] {
            let (server, deployment, lease, record) = held(Mode::Shared).await;
            server.command(&["FLUSHALL"]);
            let request = AcquireRequest::new(lease.name.clone(), LeaseId::from(8), "other").with_mode(other);
            assert!(deployment.acquire(&request).await.is_ok());
            assert!(!deployment.restore(&lease, &record, deployment.stamps.next()).await.unwrap());
            let holder = deployment.inspect(&lease.name).await.unwrap().unwrap();
            assert_eq!((holder.count(), holder.mode), (1, other));
        }
    }

    #[tokio::test]
    async fn a_duplicate_repair_changes_nothing() {
        for (lost, mode) in [false, true].into_iter().flat_map(|lost| MODES.map(|mode| (lost, mode))) {
            let (server, deployment, lease, mut record) = held(mode).await;
            if lost {
                server.command(&["FLUSHALL"]);
                assert!(deployment.restore(&lease, &record, deployment.stamps.next()).await.unwrap());
                record = deployment.record(&lease).await.unwrap();
            }
            let longer = lease.clone().with_ttl(lease.ttl * 1000);
            assert!(deployment.restore(&longer, &record, deployment.stamps.next()).await.unwrap());
            assert_eq!(deployment.record(&lease).await.unwrap(), record);
            let left: u64 = server.command(&["PTTL", "onelock:{job}"]).trim().trim_start_matches(':').parse().unwrap();
            // The key of a lock with several holders expires with the next whole millisecond.
            assert!(u128::from(left) <= lease.ttl.as_millis() + 1, "{left}");
        }
    }
}
