//! The requests about locks that may have several holders: shared locks and permits.
//!
//! Their holders are a sorted set at the key of the lock, which the scripts of exclusive locks see
//! as a foreign kind of key. So those scripts need not know of several holders, and cost what they
//! did. A second request reads the holders.

use std::time::Duration;

use lock_core::{
    Error, ErrorKind, FencingToken, Holder, LockName,
    backend::{AcquireOutcome, AcquireRequest, Break, Lease, LeaseId, Release},
};
use redis::Value;

use crate::{
    answer::{refusal, released},
    deployment::{Deployment, is_moving, millis},
    error::unexpected,
    record::mode_text,
    script::Call,
    wake::Queuing,
};

const HOLDERS: &str = "the holders script";

impl Deployment {
    /// The keys of a request to join the holders of `lock`.
    pub(crate) fn join_keys(&self, lock: &str, id: &str, waits: bool) -> Vec<String> {
        let keys = &self.keys;
        let mut all = vec![lock.to_owned(), keys.token(lock), keys.records(lock), keys.gone(lock, id), keys.mark(lock)];
        all.extend(waits.then(|| keys.waiters(lock)));
        all
    }

    /// A request to join the holders, with these keys.
    pub(crate) fn join<'a>(
        &'a self,
        keys: &'a [String],
        request: &AcquireRequest,
        queuing: Option<&Queuing<'_>>,
    ) -> Call<'a> {
        self.join_with(self.scripts.join.call(keys), request, queuing)
    }

    /// Adds the arguments of a request to join the holders.
    pub(crate) fn join_with<'a>(
        &self,
        call: Call<'a>,
        request: &AcquireRequest,
        queuing: Option<&Queuing<'_>>,
    ) -> Call<'a> {
        let call = self.about(call, request).arg(mode_text(request.mode)).arg(&request.owner);
        let call = call.arg(u8::from(request.waits && !request.fair));
        match queuing {
            None => call,
            Some(queuing) => call
                .arg(queuing.channel)
                .arg(&queuing.place)
                .arg(u8::from(queuing.alone))
                .arg(u8::from(self.connection.is_cluster())),
        }
    }

    /// Answers an exclusive request that several holders refuse, and notes it if it waits.
    /// `seen` is what the refusal said of them.
    pub(crate) async fn refused_by_several(
        &self,
        lock: &str,
        request: &AcquireRequest,
        seen: Holder,
    ) -> Result<AcquireOutcome, Error> {
        let id = request.id.to_string();
        let mut keys = vec![lock.to_owned(), self.keys.records(lock)];
        let marks = request.waits && !request.fair;
        if marks {
            keys.extend([self.keys.mark(lock), self.keys.gone(lock, &id), self.keys.token(lock)]);
            self.waiting_marks.note(request.id, request.ttl);
        }
        let mut call = self.scripts.holders.call(&keys);
        if marks {
            call = call.arg(&id).arg(mode_text(request.mode)).arg(&request.owner).arg(millis(request.ttl));
            call = call.arg(self.stamps.next());
        }
        let holder = match self.holders(&call).await {
            // Without a holder, all of them have released the lock since. It was held when asked.
            Ok(holder) => holder.unwrap_or_default(),
            // The lock is held, so a user who may not read the holders is refused like any other.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                tracing::debug!(name = %request.name, %error, "the holders of a lock cannot be read");
                seen.with_foreign("several holders that this Redis user may not read".to_owned())
            }
            Err(error) => return Err(error),
        };
        Ok(AcquireOutcome::Contended(holder))
    }

    /// Returns the holders of a lock that has a sorted set at its key.
    pub(crate) async fn several(&self, lock: &str) -> Result<Option<Holder>, Error> {
        let keys = [lock.to_owned(), self.keys.records(lock)];
        self.holders(&self.scripts.holders.call(&keys)).await
    }

    async fn holders(&self, call: &Call<'_>) -> Result<Option<Holder>, Error> {
        match self.connection.run(call).await? {
            Value::Array(answer) => refusal(HOLDERS, &answer),
            answer => Err(unexpected(HOLDERS, &answer)),
        }
    }

    /// Releases the part of one of several holders. With `unmark` the request waits no longer.
    pub(crate) async fn release_part(&self, lease: &Lease, hold_for: Duration, unmark: bool) -> Result<Release, Error> {
        let lock = self.keys.lock(&lease.name);
        let id = lease.id.to_string();
        let mut keys = vec![lock.clone(), self.keys.token(&lock), self.keys.records(&lock)];
        keys.extend([self.keys.gone(&lock, &id), self.keys.waiters(&lock)]);
        keys.extend(unmark.then(|| self.keys.mark(&lock)));
        let hold_for = if hold_for.is_zero() { 0 } else { millis(hold_for) };
        let (stamp, may_arrive_late) = (self.stamps.next(), self.unanswered.contains(lease.id));
        let release = async |keys: &[String]| {
            let call = self.scripts.joined_release.call(keys).arg(&id).arg(stamp).arg(hold_for);
            let call = call.arg(u8::from(self.connection.is_cluster())).arg(u8::from(may_arrive_late));
            self.connection.run(&call).await
        };
        let answer = match release(&keys).await {
            // As with an exclusive lock: the keys of a held one exist.
            Err(error) if is_moving(&error) => Box::pin(release(&keys[..3])).await,
            answer => answer,
        }?;
        if may_arrive_late {
            self.unanswered.remove(lease.id);
        }
        released(answer)
    }

    /// Ends the wait of a request: its mark if it waited for several holders, and its place if it
    /// is fair.
    pub(crate) async fn unmark(&self, name: &LockName, id: LeaseId) -> Result<(), Error> {
        let lock = self.keys.lock(name);
        let keys = &self.keys;
        let keys = [
            keys.mark(&lock),
            lock.clone(),
            keys.waiters(&lock),
            keys.token(&lock),
            keys.queue(&lock),
            keys.places(&lock),
        ];
        let call = self.scripts.unmark.call(&keys).arg(id.to_string());
        self.connection.run(&call.arg(u8::from(self.connection.is_cluster()))).await?;
        self.waiting_marks.remove(id);
        Ok(())
    }

    pub(crate) async fn break_part(&self, lock: &str, id: &str, by: &str) -> Result<Break, Error> {
        let keys = [
            lock.to_owned(),
            self.keys.token(lock),
            self.keys.records(lock),
            self.keys.broken(lock, id),
            self.keys.waiters(lock),
        ];
        let call = self.scripts.joined_break.call(&keys).arg(id).arg(by).arg(u8::from(self.connection.is_cluster()));
        match self.connection.run(&call).await? {
            Value::Array(answer) if answer.first() == Some(&Value::Int(1)) => Ok(Break::Broken),
            Value::Array(answer) => refusal("the break script", &answer).map(Break::Changed),
            answer => Err(unexpected("the break script", &answer)),
        }
    }

    /// A request to raise the token of one of several holders, with these keys.
    pub(crate) fn advance_part<'a>(&'a self, keys: &'a [String], lease: &Lease, token: FencingToken) -> Call<'a> {
        self.scripts.joined_advance_token.call(keys).arg(lease.id.to_string()).arg(token.get())
    }

    /// Reads the record of one of several holders.
    pub(crate) async fn record_of_part(&self, lease: &Lease) -> Result<Vec<u8>, Error> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.records(&self.keys.lock(&lease.name))).arg(lease.id.to_string());
        match self.connection.command(&command, None).await? {
            Value::BulkString(record) => Ok(record),
            other => Err(unexpected("HGET", &other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use lock_core::Mode;
    use test_support::redis::RedisServer;

    use super::*;
    use crate::{Address, RedisConfig, answer::granted_or_held};

    #[tokio::test]
    // verifies: late-request, P12
    async fn a_request_delivered_twice_revives_no_ended_part() {
        let server = RedisServer::start();
        let config = RedisConfig::standalone(Address::tcp("127.0.0.1", server.port()));
        let deployment = Deployment::new(&config.timeout(Duration::from_secs(10))).unwrap();
        let name = LockName::new("job").unwrap();
        for (breaks, alone) in [(false, false), (false, true), (true, false), (true, true)] {
            let [request, other] =
                [(); 2].map(|()| AcquireRequest::new(name.clone(), LeaseId::random(), "etl").with_mode(Mode::Shared));
            if !alone {
                assert!(matches!(deployment.acquire(&other).await, Ok(AcquireOutcome::Granted(_))));
            }
            let (lock, id) = (deployment.keys.lock(&name), request.id.to_string());
            let keys = deployment.join_keys(&lock, &id, false);
            let call = deployment.join(&keys, &request, None);
            let answer = deployment.connection.run(&call).await.unwrap();
            assert!(matches!(granted_or_held(answer, &request), Ok(AcquireOutcome::Granted(_))));
            if breaks {
                assert_eq!(deployment.break_part(&lock, &id, "alice").await.unwrap(), Break::Broken);
            } else {
                let released = deployment.release(&request.lease(None), Duration::ZERO).await.unwrap();
                assert_eq!(released, Release::Released);
            }
            let answer = deployment.connection.run(&call).await.unwrap();
            assert!(granted_or_held(answer, &request).is_err(), "breaks: {breaks}, alone: {alone}");
            let left = deployment.inspect(&name).await.unwrap().map_or(0, |holder| holder.count());
            assert_eq!(left, u64::from(!alone));
            deployment.release(&other.lease(None), Duration::ZERO).await.unwrap();
        }
    }
}
