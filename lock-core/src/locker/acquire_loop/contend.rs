//! Contends at the store until the lock is acquired or the wait ends.

use std::{sync::Arc, time::Duration};

use super::AcquireLoop;
use crate::{
    backend::{AcquireRequest, Watch},
    engine::{
        backoff::{Backoff, SHORTEST},
        outage::Outage,
        shared::Shared,
    },
    locker::outcome::TryAcquire,
    types::{Error, ErrorKind, Holder},
};

impl AcquireLoop {
    /// Makes attempts. Between them it waits for a release, or until the next poll.
    pub(super) async fn contend(&mut self, wait: Option<Duration>) -> Result<TryAcquire, Error> {
        let mut backoff = Backoff::new(self.shared.backend.timings());
        let (mut watch, mut watched) = (None, self.pending.request.id);
        let mut may_watch = self.shared.capabilities.wake_up;
        let mut outage = Outage::default();
        loop {
            self.pending.wait_for_release(self.patience(wait)).await;
            let answer = self.attempt().await;
            let expires_in = match &answer {
                Ok(TryAcquire::Acquired(_)) => return answer,
                Ok(TryAcquire::Contended(holder)) => {
                    outage.end(holder);
                    holder.expires_in
                }
                Err(error) => {
                    let goes_on = outage.goes_on(error, self.shared.clock.now());
                    if goes_on.is_zero() {
                        return answer;
                    }
                    let left = self.patience(wait).map_or(goes_on, |left| left.min(goes_on));
                    if !left.is_zero() {
                        self.note_retry(error, left);
                    }
                    None
                }
            };
            let left = self.patience(wait);
            if left.is_some_and(|left| left.is_zero()) {
                return outage.last_holder(&answer).map_or(answer, |holder| Ok(TryAcquire::Contended(holder)));
            }
            if self.pending.request.fair && watched != self.pending.request.id {
                watch = None;
            }
            if may_watch && watch.is_none() {
                let limit = left.map_or(self.timing.attempt_timeout, |left| left.min(self.timing.attempt_timeout));
                watched = self.pending.request.id;
                match watch_for(&self.shared, Arc::clone(&self.pending.request), limit).await {
                    Ok(Some(begun)) => {
                        watch = Some(begun);
                        // Try again: a release before the watch began does not wake it.
                        continue;
                    }
                    Ok(None) => may_watch = false,
                    // Retried in the next round: after an outage a long wait must not depend on
                    // polling.
                    Err(()) => {}
                }
            }
            let longest = self.patience(wait).unwrap_or(Duration::MAX);
            let pause = backoff.after_wake(holder_of(&answer));
            if !pause.is_zero() {
                // Woken although the lock is still held. Such a watch must not cause a tight loop.
                tokio::time::sleep(pause.min(longest)).await;
            }
            let nap = match &answer {
                Err(error) if error.kind() == ErrorKind::Throttled => backoff.throttled(),
                _ => backoff.next(expires_in),
            };
            let nap = nap.min(self.pending.longest_pause().unwrap_or(longest)).min(longest);
            tokio::select! {
                // At the latest until the holder's lease expires; without a watch until the next
                // poll.
                () = tokio::time::sleep(nap.max(SHORTEST)) => {}
                () = changed(watch.as_mut()) => backoff.woken(holder_of(&answer)),
            }
            if self.is_too_late() {
                return answer;
            }
        }
    }
}

/// Begins to watch for the turn of a request. Returns `Ok(None)` if the store cannot watch at all,
/// and an error if it failed now.
///
/// Not a method, because an `AcquireLoop` with a request in flight cannot be shared between
/// threads.
async fn watch_for(
    shared: &Shared,
    request: Arc<AcquireRequest>,
    limit: Duration,
) -> Result<Option<Box<dyn Watch>>, ()> {
    let watch = if request.fair { shared.backend.watch_place(&request) } else { shared.backend.watch(&request.name) };
    let answer = tokio::time::timeout(limit, watch).await;
    answer
        .map_err(drop)?
        .map_err(|error| tracing::debug!(name = %request.name, %error, "watch failed; polling until the next attempt"))
}

async fn changed(watch: Option<&mut Box<dyn Watch>>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

fn holder_of(answer: &Result<TryAcquire, Error>) -> Option<&Holder> {
    match answer {
        Ok(TryAcquire::Contended(holder)) => Some(holder),
        _ => None,
    }
}
