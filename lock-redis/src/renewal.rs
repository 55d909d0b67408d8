//! Renews leases, and finds out why one was lost.

use futures_util::future::join_all;
use lock_core::{
    Error, LossReason,
    backend::{Lease, Renewal},
};
use redis::Value;

use crate::{
    answer::why_lost,
    deployment::{Deployment, millis},
    error::unexpected,
};

impl Deployment {
    /// Renews all leases in one call, or in two if some are exclusive and others are not. A cluster
    /// needs one call each, because a script runs on one slot; these calls are pipelined.
    pub(crate) async fn renew_many(&self, leases: &[Lease]) -> Vec<Result<Renewal, Error>> {
        let at_once = if self.connection.is_cluster() { 1 } else { leases.len().max(1) };
        let mut order: Vec<_> = (0..leases.len()).collect();
        order.sort_by_key(|&i| leases[i].mode.may_be_joined());
        let chunks = order
            .chunk_by(|&a, &b| leases[a].mode.may_be_joined() == leases[b].mode.may_be_joined())
            .flat_map(|group| group.chunks(at_once));
        let calls = join_all(chunks.map(|some| async move {
            let some: Vec<_> = some.iter().map(|&i| &leases[i]).collect();
            match self.renew(&some).await {
                Ok((renewed, confirmed)) => {
                    let confirmed = &confirmed;
                    join_all(some.iter().zip(renewed).map(|(lease, renewed)| async move {
                        match renewed {
                            // A replica that lacks the renewal would expire the lease at its old
                            // end after a failover.
                            true => confirmed.clone().map(|()| Renewal::Renewed),
                            false => Ok(Renewal::Lost(self.why_lost(lease).await)),
                        }
                    }))
                    .await
                }
                Err(error) => vec![Err(error); some.len()],
            }
        }));
        let renewals = calls.await.into_iter().flatten();
        let mut renewals: Vec<_> = order.iter().zip(renewals).collect();
        renewals.sort_by_key(|(i, _)| **i);
        renewals.into_iter().map(|(_, renewal)| renewal).collect()
    }

    /// Renews the leases, all of which are exclusive or none. Returns for each whether it was still
    /// held, and whether enough replicas confirmed.
    async fn renew(&self, leases: &[&Lease]) -> Result<(Vec<bool>, Result<(), Error>), Error> {
        let keys: Vec<_> = leases.iter().map(|lease| self.keys.lock(&lease.name)).collect();
        let joined = leases.iter().any(|lease| lease.mode.may_be_joined());
        let mut call = if joined { &self.scripts.joined_renew } else { &self.scripts.renew }.call(&keys);
        for lease in leases {
            call = call.arg(lease.id.to_string()).arg(millis(lease.ttl));
        }
        let (answer, confirmed) = match &self.replicated {
            None => (self.connection.run(&call).await?, Ok(())),
            Some(replicated) => replicated.run(&replicated.renewing, &call).await?,
        };
        self.pass_on();
        let renewed = match &answer {
            Value::Array(answers) => answers.iter().map(|answer| *answer == Value::Int(1)).collect::<Vec<_>>(),
            _ => return Err(unexpected("the renew script", &answer)),
        };
        if renewed.len() != leases.len() {
            return Err(unexpected("the renew script", &answer));
        }
        Ok((renewed, confirmed))
    }

    /// Returns why a lease was lost.
    ///
    /// This is a separate request, because a renewal may name only the lock's key: a script with
    /// one key also runs while its slot moves to another node of a cluster.
    pub(crate) async fn why_lost(&self, lease: &Lease) -> LossReason {
        let lock = self.keys.lock(&lease.name);
        let id = lease.id.to_string();
        let keys = [lock.clone(), self.keys.token(&lock), self.keys.broken(&lock, &id), self.keys.records(&lock)];
        let answer = self.connection.run(&self.scripts.lost.call(&keys).arg(id)).await;
        // The loss is certain, and the guard must learn of it, although its reason is unknown.
        answer.and_then(|answer| why_lost(answer, lease)).unwrap_or_else(|error| {
            tracing::debug!(name = %lease.name, %error, "the reason of a loss cannot be read");
            LossReason::RecordGone
        })
    }
}
