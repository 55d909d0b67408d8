//! The operations on one Redis: a server, the primary behind sentinels, or a cluster.

use std::{sync::Arc, time::Duration};

use lock_core::{
    Error, FencingToken, LossReason,
    backend::{AcquireOutcome, AcquireRequest, Lease, Release, WaitingMarks},
};
use redis::{ServerErrorKind, Value};

use crate::{
    answer::{granted_or_held, is_by_several, needs_more_keys, released},
    batches::Batches,
    config::{RedisConfig, Topology},
    connect::Connector,
    connection::ConnectionSlot,
    error::{Cause, unexpected},
    keys::Keys,
    record,
    repeated_requests::repeated,
    replication::Replication,
    script::{Call, Scripts},
    stamps::Stamps,
    unanswered_acquires::UnansweredAcquires,
    wake::{Queuing, Standing},
};

/// One Redis, and what this process knows about its requests to it.
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) connection: Arc<ConnectionSlot>,
    pub(crate) replicated: Option<Replication>,
    acquires: Batches,
    releases: Batches,
    pub(crate) keys: Keys,
    pub(crate) scripts: Arc<Scripts>,
    pub(crate) stamps: Stamps,
    pub(crate) unanswered: UnansweredAcquires,
    pub(crate) waiting_marks: WaitingMarks,
    /// Whether a call may release a lock and acquire it for the next waiter of this process.
    ///
    /// Not in a cluster, where the slot of the lock may move, and not with replicas, for which a
    /// grant has to wait, and not on a server of a quorum. Other clients have signals of their own.
    /// Where this is `false`, a grant that reserves tokens shows the token of the previous grant.
    /// This process then knows whether others use the lock.
    pub(crate) relays: bool,
}

impl Deployment {
    pub(crate) fn new(config: &RedisConfig) -> Result<Self, Error> {
        let connector = || match &config.topology {
            Topology::Standalone(address) => Connector::node(config, address),
            Topology::Sentinel { sentinels, service } => Connector::sentinel(config, sentinels, service),
            Topology::Cluster(seeds) => Connector::cluster(config, seeds),
            Topology::Quorum(_) => unreachable!("a quorum has a deployment for each of its servers"),
        };
        let slot = || Ok::<_, Error>(ConnectionSlot::new(connector()?, config.connect_timeout, config.timeout));
        let replicated = match config.replicas {
            0 => None,
            number => Some(Replication { number, timeout: config.timeout / 2, acquiring: slot()?, renewing: slot()? }),
        };
        let (connection, scripts) = (Arc::new(slot()?), Arc::new(Scripts::new()));
        Ok(Self {
            acquires: Batches::new(&connection, &scripts, |all| &all.acquire, |all| &all.acquire_many),
            releases: Batches::new(&connection, &scripts, |all| &all.release, |all| &all.release_many),
            connection,
            replicated,
            keys: Keys::new(config.key_prefix.clone(), config.compat),
            scripts,
            stamps: Stamps::default(),
            unanswered: UnansweredAcquires::default(),
            waiting_marks: WaitingMarks::default(),
            relays: !matches!(config.topology, Topology::Cluster(_)) && config.replicas == 0 && config.compat.is_none(),
        })
    }

    pub(crate) async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        let lock = self.keys.lock(&request.name);
        let takes_place = request.fair && request.waits;
        let queuing = if takes_place { None } else { self.connection.wakers.queuing(&lock) };
        let mut sent = self.unanswered.sending(request.id);
        let sending = self.granting().sending();
        let mut answer = if takes_place {
            // Before it is sent: whatever happens to the request, a release then ends its wait.
            self.waiting_marks.note(request.id, request.ttl);
            Box::pin(self.ask_in_turn(&lock, request, None)).await
        } else {
            self.ask(&lock, request, queuing.as_ref()).await
        };
        if answer.as_ref().is_ok_and(|(answer, _)| needs_more_keys(answer)) {
            answer = Box::pin(self.ask_in_turn(&lock, request, queuing.as_ref())).await;
        }
        sent.answered = !answer.as_ref().is_err_and(Error::is_ambiguous) && !sending.may_be_repeated();
        let (answer, replicated) = answer?;
        self.pass_on();
        let by_several = is_by_several(&answer);
        let attempt = match granted_or_held(answer, request)? {
            AcquireOutcome::Contended(seen) if by_several => {
                Box::pin(self.refused_by_several(&lock, request, seen)).await?
            }
            attempt => attempt,
        };
        if let (Err(missing), AcquireOutcome::Granted(_)) = (replicated, &attempt) {
            let undone = Box::pin(self.release(&request.lease(None), Duration::ZERO)).await.is_ok();
            return Err(missing.with_ambiguous(!undone));
        }
        match (&attempt, queuing) {
            (AcquireOutcome::Granted(_), _) if takes_place => self.waiting_marks.remove(request.id),
            (AcquireOutcome::Granted(_), Some(queuing)) if queuing.alone => {
                self.connection.wakers.note(&lock, Standing::Out, None);
            }
            (AcquireOutcome::Contended(_), Some(_)) => self.connection.wakers.note(&lock, Standing::Queued, None),
            _ => {}
        }
        if matches!(attempt, AcquireOutcome::Contended(_)) && sending.may_be_repeated() {
            // An earlier copy may still arrive once the lock is free, so the core has to release
            // its id.
            return Err(repeated());
        }
        Ok(attempt)
    }

    /// Sends a request to acquire `lock`, and answers like [`send`](Self::send).
    async fn ask(
        &self,
        lock: &str,
        request: &AcquireRequest,
        queuing: Option<&Queuing<'_>>,
    ) -> Result<(Value, Result<(), Error>), Error> {
        let keys = self.acquire_keys(lock, request, queuing.is_some());
        if request.mode.may_be_joined() {
            return self.send(&self.join(&keys, request, queuing)).await;
        }
        let call = self.take(&keys, request, queuing);
        if queuing.is_none() && request.reserved_tokens == 0 && self.replicated.is_none() {
            return self.acquires.run(call).await.map(|answer| (answer, Ok(())));
        }
        self.send(&call).await
    }

    /// Returns the keys of a request to acquire, the last of which are the waiters if it `waits`.
    pub(crate) fn acquire_keys(&self, lock: &str, request: &AcquireRequest, waits: bool) -> Vec<String> {
        let id = request.id.to_string();
        if request.mode.may_be_joined() {
            return self.join_keys(lock, &id, waits);
        }
        let mut keys = vec![lock.to_owned(), self.keys.token(lock), self.keys.gone(lock, &id)];
        keys.extend(waits.then(|| self.keys.waiters(lock)));
        keys
    }

    /// Sends a call that acquires, or raises the token of a grant. Returns the reply, and whether
    /// enough replicas confirmed.
    pub(crate) async fn send(&self, call: &Call<'_>) -> Result<(Value, Result<(), Error>), Error> {
        match &self.replicated {
            None => self.connection.run(call).await.map(|answer| (answer, Ok(()))),
            Some(replicated) => Box::pin(replicated.run(&replicated.acquiring, call)).await,
        }
    }

    /// The connection of the calls that acquire.
    fn granting(&self) -> &ConnectionSlot {
        self.replicated.as_ref().map_or(&*self.connection, |replicated| &replicated.acquiring)
    }

    /// A request for an exclusive lock, with these keys.
    fn take<'a>(&'a self, keys: &'a [String], request: &AcquireRequest, queuing: Option<&Queuing<'_>>) -> Call<'a> {
        let call = self.scripts.acquire.call(keys);
        let call = self.about(call, request);
        let reserved = request.reserved_tokens;
        let call = match queuing {
            None if reserved > 0 => call.arg("").arg("").arg(""),
            None => call,
            Some(queuing) => call.arg(queuing.channel).arg(&queuing.place).arg(u8::from(queuing.alone)),
        };
        if reserved > 0 { call.arg(reserved).arg(u8::from(!self.relays)) } else { call }
    }

    /// Adds what every request to acquire begins with.
    pub(crate) fn about<'a>(&self, call: Call<'a>, request: &AcquireRequest) -> Call<'a> {
        let ttl = millis(request.ttl);
        let call = call.arg(request.id.to_string()).arg(ttl).arg(self.stamps.next());
        call.arg(record::tail(request, ttl))
    }

    pub(crate) async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        let sending = self.connection.sending();
        let answer = if lease.mode.may_be_joined() {
            Box::pin(self.release_part(lease, hold_for, true)).await?
        } else {
            self.release_whole(lease, hold_for, true).await?
        };
        if self.waiting_marks.contains(lease.id)
            && let Err(error) = Box::pin(self.unmark(&lease.name, lease.id)).await
            // What a waiter that gives up has left keeps others out, so the caller tries again.
            && answer != Release::Released
        {
            return Err(error);
        }
        if matches!(answer, Release::NotHeld(_)) && sending.may_be_repeated() {
            // A break is certain, because the holder finds its trace.
            let broken = matches!(Box::pin(self.why_lost(lease)).await, LossReason::BrokenBy(_));
            return if broken { Ok(Release::NotHeld(None)) } else { Err(repeated()) };
        }
        Ok(answer)
    }

    /// Undoes an attempt of a request, which may go on to wait.
    pub(crate) async fn roll_back(&self, request: &AcquireRequest) -> Result<Release, Error> {
        let lease = request.lease(None);
        if lease.mode.may_be_joined() {
            return self.release_part(&lease, Duration::ZERO, !request.waits).await;
        }
        self.release_whole(&lease, Duration::ZERO, false).await
    }

    /// Releases an exclusive lock, which takes a second request if it was not held after all.
    async fn release_whole(&self, lease: &Lease, hold_for: Duration, is_held: bool) -> Result<Release, Error> {
        let lock = self.keys.lock(&lease.name);
        let id = lease.id.to_string();
        let mut keys = vec![lock.clone(), self.keys.token(&lock), self.keys.waiters(&lock), self.keys.gone(&lock, &id)];
        keys.extend(self.keys.signal(&lease.name));
        let hold_for = if hold_for.is_zero() { 0 } else { millis(hold_for) };
        let (stamp, may_arrive_late) = (self.stamps.next(), self.unanswered.contains(lease.id));
        let has_options = hold_for > 0 || self.connection.is_cluster() || may_arrive_late || keys.len() > 4;
        let release = async |keys: &[String]| {
            let mut call = self.scripts.release.call(keys).arg(&id).arg(stamp);
            if has_options {
                call = call.arg(hold_for).arg(u8::from(self.connection.is_cluster())).arg(u8::from(may_arrive_late));
            }
            self.connection.run(&call).await
        };
        let answer = if has_options || !is_held {
            release(&keys).await
        } else {
            // A holder has no mark of its own, so its release need not name that.
            let answer = self.releases.run(self.scripts.release.call(&keys[..3]).arg(&id).arg(stamp)).await;
            if answer.as_ref().is_ok_and(needs_more_keys) { Box::pin(release(&keys)).await } else { answer }
        };
        let answer = match answer {
            // The slot of the lock is moving to another cluster node, so a script may name only
            // keys that exist. A held lock and its token exist. Its waiters retry by themselves.
            // This release leaves no mark. The old node refuses a late acquire while the slot
            // moves, and redirects it after the move.
            Err(error) if is_moving(&error) => Box::pin(release(&keys[..2])).await,
            answer => answer,
        };
        let answer = answer?;
        if may_arrive_late {
            self.unanswered.remove(lease.id);
        }
        if is_by_several(&answer) {
            // A waiter that gives up needs no names. An error would hide that nothing is held.
            let waited = self.waiting_marks.contains(lease.id);
            let holder = if waited { None } else { Box::pin(self.several(&lock)).await.unwrap_or_default() };
            return Ok(Release::NotHeld(holder));
        }
        released(answer)
    }

    /// Raises the token of a held lease, because the servers of a quorum mint different tokens.
    /// Returns `false` if the lease does not hold the lock.
    pub(crate) async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        let lock = self.keys.lock(&lease.name);
        let keys = [lock.clone(), self.keys.token(&lock), self.keys.records(&lock)];
        let call = if lease.mode.may_be_joined() {
            self.advance_part(&keys, lease, token)
        } else {
            self.scripts.advance_token.call(&keys[..2]).arg(lease.id.to_string()).arg(token.get())
        };
        // A raised token is a part of the grant, so the replicas have to confirm it too.
        let (answer, confirmed) = self.send(&call).await?;
        match answer {
            Value::Int(0) => Ok(false),
            Value::Int(1) => confirmed.map(|()| true),
            answer => Err(unexpected("the advance_token script", &answer)),
        }
    }
}

/// Whether a call was refused because some of its keys may be on another node.
pub(crate) fn is_moving(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Cause>());
    source.is_some_and(|source| source.0.kind() == redis::ErrorKind::Server(ServerErrorKind::TryAgain))
}

/// Converts to whole milliseconds, rounded up. Redis has no finer unit and refuses 0, and a lease
/// must not be shorter than requested.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).clamp(1, 1 << 52)
}

#[cfg(test)]
mod tests {
    use lock_core::{
        LockName, Mode,
        backend::{Admin as _, LeaseId},
    };
    use test_support::redis::RedisServer;

    use super::*;
    use crate::{Address, RedisBackend};

    /// A request, and the call that sends it.
    fn sent<'a>(deployment: &'a Deployment, keys: &'a [String], request: &AcquireRequest) -> Call<'a> {
        match request.mode.may_be_joined() {
            true => deployment.join(keys, request, None),
            false => deployment.take(keys, request, None),
        }
    }

    #[tokio::test]
    // verifies: late-request, P5, P12
    async fn an_acquire_sent_between_two_releases_leaves_no_lock() {
        let server = RedisServer::start();
        let config = RedisConfig::standalone(Address::tcp("127.0.0.1", server.port())).timeout(Duration::from_secs(10));
        let (deployment, observer) = (Deployment::new(&config).unwrap(), RedisBackend::new(config).unwrap());
        for (mode, was_held) in [Mode::Exclusive, Mode::Shared].into_iter().flat_map(|m| [(m, false), (m, true)]) {
            let name = LockName::new(format!("{mode}/{was_held}")).unwrap();
            let request = AcquireRequest::new(name.clone(), LeaseId::random(), "etl").with_mode(mode);
            let (lock, id) = (deployment.keys.lock(&name), request.id.to_string());
            let (oldest, lease) = (deployment.stamps.next(), request.lease(None));
            if was_held {
                assert!(matches!(deployment.acquire(&request).await, Ok(AcquireOutcome::Granted(_))));
            }
            deployment.release(&lease, Duration::ZERO).await.unwrap();
            let keys = deployment.acquire_keys(&lock, &request, false);
            let late = sent(&deployment, &keys, &request);
            assert_eq!(deployment.release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(None));
            // A release that was sent before all of them must not lower the mark.
            let mut keys = vec![lock.clone(), deployment.keys.token(&lock), deployment.keys.waiters(&lock)];
            keys.push(deployment.keys.gone(&lock, &id));
            if mode.may_be_joined() {
                keys = vec![keys[0].clone(), keys[1].clone(), deployment.keys.records(&lock), keys[3].clone()];
            }
            let scripts = &deployment.scripts;
            let script = if mode.may_be_joined() { &scripts.joined_release } else { &scripts.release };
            let call = script.call(&keys).arg(&id).arg(oldest).arg(0).arg(0).arg(0);
            assert!(released(deployment.connection.run(&call).await.unwrap()).is_ok());
            let answer = deployment.connection.run(&late).await.unwrap();
            assert!(granted_or_held(answer, &request).is_err(), "{mode}, was held: {was_held}");
            assert_eq!(observer.inspect(&name).await.unwrap(), None, "{mode}, was held: {was_held}");
        }
    }
}
