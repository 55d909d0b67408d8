//! The requests of a waiting process about its place in the queue of a lock.

use lock_core::Error;
use redis::Value;

use crate::{deployment::Deployment, error::unexpected, wake::Standing};

impl Deployment {
    /// Puts this process into the queue of a lock. Returns `false` if the lock is free.
    pub(crate) async fn enqueue(&self, lock: &str) -> Result<bool, Error> {
        self.connection.wakers.note(lock, Standing::Unsure, None);
        self.connection.subscribe().await?;
        let keys = [lock.to_owned(), self.keys.waiters(lock)];
        let answer = self.connection.run(&self.scripts.wait.call(&keys).arg(self.connection.wakers.channel())).await?;
        self.pass_on();
        let Value::Array(items) = &answer else { return Err(unexpected("the wait script", &answer)) };
        match &items[..] {
            [Value::Int(held), Value::BulkString(place)] => {
                self.connection.wakers.note(lock, Standing::Queued, Some(String::from_utf8_lossy(place).into_owned()));
                Ok(*held == 1)
            }
            _ => Err(unexpected("the wait script", &answer)),
        }
    }

    /// Leaves the queue, or passes on an unused wake-up.
    pub(crate) fn leave(&self, lock: &str) {
        let keys = [lock.to_owned(), self.keys.waiters(lock)];
        let cluster = u8::from(self.connection.is_cluster());
        if !self
            .connection
            .send_and_forget(&self.scripts.leave.call(&keys).arg(self.connection.wakers.channel()).arg(cluster))
        {
            self.connection.wakers.not_wanted(lock);
        }
    }

    /// Leaves queues that could not be left before, and passes on unused wake-ups.
    ///
    /// Called after a request, because a connection is open then.
    pub(crate) fn pass_on(&self) {
        for lock in self.connection.wakers.take_unwanted() {
            self.leave(&lock);
        }
    }

    /// Passes on an unused signal of python-redis-lock. `keys` are those of the lock and of its
    /// signal.
    pub(crate) fn resignal(&self, keys: &[String; 2]) {
        self.connection.send_and_forget(&self.scripts.resignal.call(keys));
    }
}
