//! Releases a lock and acquires it for the next waiter of this process, in one call.

use std::time::Duration;

use async_trait::async_trait;
use lock_core::{
    Error,
    backend::{AcquireRequest, Lease, Relay, Relayed},
};
use redis::Value;

use crate::{
    answer::{granted_or_held, is_by_several, needs_more_keys, released},
    batches::failure,
    deployment::Deployment,
    error::{Phase, translate, unexpected},
};

impl Deployment {
    /// Sends the call. `None` if the release has to be sent alone, because it needs other keys.
    async fn release_and_acquire(&self, lease: &Lease, request: &AcquireRequest) -> Result<Option<Relayed>, Error> {
        let lock = self.keys.lock(&lease.name);
        let gone = self.keys.gone(&lock, &request.id.to_string());
        let keys = [lock.clone(), self.keys.token(&lock), self.keys.waiters(&lock), gone];
        let call = self.scripts.relay.call(&keys).arg(lease.id.to_string()).arg(self.stamps.next());
        let mut call = self.about(call, request);
        if request.reserved_tokens > 0 {
            call = call.arg(request.reserved_tokens);
        }
        let mut sent = self.unanswered.sending(request.id);
        let answer = self.connection.run(&call).await;
        sent.answered = !answer.as_ref().is_err_and(Error::is_ambiguous);
        let Value::Array(mut answers) = answer? else { return Err(unexpected("the relay script", &Value::Nil)) };
        self.pass_on();
        let acquired = (answers.len() > 1).then(|| answers.pop()).flatten();
        let Some(answer) = answers.pop() else { return Err(unexpected("the relay script", &Value::Nil)) };
        if needs_more_keys(&answer) || is_by_several(&answer) {
            return Ok(None);
        }
        let acquired = match acquired {
            Some(answer) if needs_more_keys(&answer) || is_by_several(&answer) => None,
            Some(answer) => match failure(&answer) {
                Some(error) => Some(Err(translate(error, Phase::Request))),
                None => Some(granted_or_held(answer, request)),
            },
            None => None,
        };
        Ok(Some(Relayed { released: released(answer)?, acquired }))
    }
}

#[async_trait]
impl Relay for Deployment {
    async fn relay(&self, lease: &Lease, request: &AcquireRequest) -> Result<Relayed, Error> {
        // Its release has to leave a mark, or to end a wait.
        let has_options = self.unanswered.contains(lease.id) || self.waiting_marks.contains(lease.id);
        if !has_options && let Some(relayed) = self.release_and_acquire(lease, request).await? {
            return Ok(relayed);
        }
        Ok(Relayed::released(self.release(lease, Duration::ZERO).await?))
    }
}
