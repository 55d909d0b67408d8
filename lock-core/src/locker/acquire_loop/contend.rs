//! Contends at the store until the lock is acquired or the wait ends.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use super::contender::Contender;
use crate::{
    backend::{AcquireRequest, Watch},
    engine::{
        backoff::{Backoff, SHORTEST},
        outage::Outage,
        shared::Shared,
        stand_back::Others,
    },
    locker::outcome::TryAcquire,
    types::{Error, ErrorKind, FencingToken, Holder, LockName},
};

impl Contender<'_> {
    /// Lets other processes have the lock first, if this one has just had it for a whole series of
    /// hand-overs. Returns the watch that it has begun.
    async fn stand_back(&mut self, wait: Option<Duration>) -> Option<Box<dyn Watch>> {
        // Others can have their turn only after the release of a lease that does not serve this
        // request. After an error the first attempt releases it.
        let ends_series = matches!(self.pending.release_unusable(self.acquiring.time_left(wait)).await, Ok(true));
        let turn = self.pending.turn.as_ref()?;
        if ends_series {
            turn.with_others(|others| others.note_end_of_series(self.acquiring.shared.pace()));
        }
        turn.with_others(|others| others.stands_back())?;
        // The same of the release of the previous guard, which moves the end.
        self.pending.leave_release();
        self.pending.wait_for_release(self.acquiring.time_left(wait)).await;
        let stand_back = self.pending.turn.as_ref()?.with_others(|others| others.stands_back())?;
        let rest = stand_back.until.saturating_duration_since(Instant::now());
        // Half of the wait is left for attempts.
        let pause = self.acquiring.time_left(wait).map_or(rest, |left| rest.min(left / 2));
        let (shared, request) = (Arc::clone(&self.acquiring.shared), Arc::clone(&self.pending.request));
        let mut watch = Err(());
        let others_are_served = async {
            if stand_back.met && shared.capabilities.wake_up {
                watch = watch_for(&shared, Arc::clone(&request), pause).await;
                if matches!(watch, Ok(Some(_))) && others_had(&shared, &request.name, stand_back.own).await {
                    // Their release may have come before the watch began, and does not wake it.
                    return;
                }
            }
            changed(watch.as_mut().ok().and_then(Option::as_mut)).await;
        };
        let is_served = timeout(pause, others_are_served).await.is_ok();
        if pause < rest && !is_served {
            // The next waiter stands back for the rest, so no series begins before.
            Arc::make_mut(&mut self.pending.request).reserved_tokens = 0;
        }
        if matches!(watch, Ok(None)) {
            self.note_others(Others::note_polling);
        }
        watch.ok().flatten()
    }

    /// Makes attempts. Between them it waits for a release, or until the next poll.
    pub(super) async fn contend(mut self, wait: Option<Duration>) -> Result<TryAcquire, Error> {
        let mut backoff = Backoff::new(self.acquiring.shared.backend.timings());
        let (mut watch, mut watched) = (self.stand_back(wait).await, self.pending.request.id);
        let mut may_watch = self.acquiring.shared.capabilities.wake_up;
        let mut outage = Outage::default();
        loop {
            self.pending.wait_for_release(self.acquiring.time_left(wait)).await;
            let answer = self.attempt().await;
            let expires_in = match &answer {
                Ok(TryAcquire::Acquired(_)) => return answer,
                Ok(TryAcquire::Contended(holder)) => {
                    outage.end(holder);
                    holder.expires_in
                }
                Err(error) => {
                    let goes_on = outage.goes_on(error, self.acquiring.shared.clock.now());
                    if goes_on.is_zero() {
                        return answer;
                    }
                    let left = self.acquiring.time_left(wait).map_or(goes_on, |left| left.min(goes_on));
                    if !left.is_zero() {
                        self.acquiring.note_retry(error, left);
                    }
                    None
                }
            };
            let left = self.acquiring.time_left(wait);
            if left.is_some_and(|left| left.is_zero()) {
                return outage.last_holder(&answer).map_or(answer, |holder| Ok(TryAcquire::Contended(holder)));
            }
            if self.pending.request.fair && watched != self.pending.request.id {
                watch = None;
            }
            if may_watch && watch.is_none() {
                let limit = left.unwrap_or(Duration::MAX).min(self.acquiring.timing().attempt_timeout);
                watched = self.pending.request.id;
                match watch_for(&self.acquiring.shared, Arc::clone(&self.pending.request), limit).await {
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
            let longest = self.acquiring.time_left(wait).unwrap_or(Duration::MAX);
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
                biased;
                () = changed(watch.as_mut()) => backoff.woken(holder_of(&answer)),
                // Until the holder's lease expires, or without a watch until the next poll.
                () = tokio::time::sleep(nap.max(SHORTEST)) => {}
            }
            if self.acquiring.is_too_late() {
                return answer;
            }
        }
    }
}

/// Begins to watch for the turn of a request. Returns `Ok(None)` if the store cannot watch at all,
/// and an error if it failed now.
///
/// Not a method, because a `Contender` with a request in flight cannot be shared between
/// threads.
async fn watch_for(
    shared: &Shared,
    request: Arc<AcquireRequest>,
    limit: Duration,
) -> Result<Option<Box<dyn Watch>>, ()> {
    let watch = if request.fair { shared.backend.watch_place(&request) } else { shared.backend.watch(&request.name) };
    let answer = timeout(limit, watch).await;
    answer
        .map_err(drop)?
        .map_err(|error| tracing::debug!(name = %request.name, %error, "watch failed; polling until the next attempt"))
}

/// Returns `true` if the store tells that another process had the lock after the grant of `own`.
async fn others_had(shared: &Shared, name: &LockName, own: Option<FencingToken>) -> bool {
    let Some(admin) = shared.backend.admin() else { return false };
    match admin.last_holder(name).await {
        Ok(Some(last)) => last.holder.token != own,
        // Held, or a store that keeps nothing of a free lock.
        Ok(None) => matches!(admin.inspect(name).await, Ok(Some(_))),
        Err(_) => false,
    }
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
