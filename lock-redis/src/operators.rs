//! The requests of operators about exclusive locks: to look at one, to break it, and to remove its
//! keys.

use lock_core::{
    Error, Holder, LockName,
    backend::{Break, LeaseId},
};
use redis::Value;

use crate::{
    answer::{is_by_several, refusal},
    deployment::Deployment,
    error::unexpected,
    repeated_requests::repeated,
};

impl Deployment {
    pub(crate) async fn inspect(&self, name: &LockName) -> Result<Option<Holder>, Error> {
        let keys = [self.keys.lock(name)];
        match self.connection.run(&self.scripts.inspect.call(&keys)).await? {
            answer if is_by_several(&answer) => Box::pin(self.several(&keys[0])).await,
            Value::Array(answer) => refusal("the inspect script", &answer),
            answer => Err(unexpected("the inspect script", &answer)),
        }
    }

    /// Breaks the lock of the holder `version`. With `elsewhere`, other servers of the quorum have
    /// broken it, so this server keeps a trace even if it does not have the lock.
    pub(crate) async fn break_lock(
        &self,
        name: &LockName,
        version: &str,
        by: &str,
        elsewhere: bool,
    ) -> Result<Break, Error> {
        // Only onelock's locks have a version, which is the lease id. Any other text matches no
        // current lock.
        let Ok(id) = version.parse::<LeaseId>().map(|id| id.to_string()) else {
            return self.inspect(name).await.map(Break::Changed);
        };
        let lock = self.keys.lock(name);
        let mut keys =
            vec![lock.clone(), self.keys.token(&lock), self.keys.broken(&lock, &id), self.keys.waiters(&lock)];
        keys.extend(self.keys.signal(name));
        let mut call = self.scripts.break_lock.call(&keys).arg(&id).arg(by).arg(u8::from(self.connection.is_cluster()));
        if elsewhere {
            call = call.arg(1);
        }
        let sending = self.connection.sending();
        let answer = match self.connection.run(&call).await? {
            answer if is_by_several(&answer) => Box::pin(self.break_part(&lock, &id, by)).await,
            Value::Array(answer) if answer.first() == Some(&Value::Int(1)) => Ok(Break::Broken),
            Value::Array(answer) => refusal("the break script", &answer).map(Break::Changed),
            answer => Err(unexpected("the break script", &answer)),
        }?;
        match answer {
            Break::Changed(_) if sending.may_be_repeated() => Err(repeated()),
            answer => Ok(answer),
        }
    }

    pub(crate) async fn purge(&self, name: &LockName) -> Result<bool, Error> {
        let lock = self.keys.lock(name);
        let beside =
            [self.keys.token(&lock), self.keys.waiters(&lock), self.keys.records(&lock), self.keys.mark(&lock)];
        let keys = [std::slice::from_ref(&lock), &beside[..], &[self.keys.places(&lock)]].concat();
        match self.connection.run(&self.scripts.purge.call(&keys)).await? {
            Value::Int(forgotten) => Ok(forgotten == 1),
            answer => Err(unexpected("the purge script", &answer)),
        }
    }
}
