//! The acquisitions that the client asks for.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lock_core::{FencingToken, Guard, Holder, LockRequest, TryAcquire};
use serde_json::Value;
use tokio::{
    sync::{mpsc::unbounded_channel, oneshot},
    time::Instant,
};

use super::{Kept, Session};
use crate::{
    args::OnLoss,
    hold::json::{held, objects, request::Wish},
    run::child::default_grace,
};

impl Session {
    pub(super) fn acquire(self: &Arc<Self>, id: Value, wish: Wish) {
        let (cancel, cancelled) = oneshot::channel();
        let key = id.to_string();
        if self.state().pending.contains_key(&key) {
            let message = format!("the id {key} belongs to an acquisition that is still going on; use another id");
            return self.reply_error(&id, &objects::refusal("protocol", &message));
        }
        self.state().pending.insert(key, cancel);
        self.spawn(Arc::clone(self).acquire_unless(id, wish, cancelled));
    }

    async fn acquire_unless(self: Arc<Self>, id: Value, wish: Wish, cancelled: oneshot::Receiver<()>) {
        let (name, wait) = (wish.name.clone(), wish.wait);
        let request = self.request(&id, wish);
        let acquiring = async {
            match wait {
                Some(Duration::ZERO) => request.try_acquire().await,
                Some(limit) => request.acquire_within(limit).await,
                None => request.acquire().await.map(TryAcquire::Acquired),
            }
        };
        let outcome = tokio::select! {
            biased;
            _ = cancelled => None,
            outcome = acquiring => Some(outcome),
        };
        // No await from here on: a guard is never without its task.
        match outcome {
            None => {
                // A lock that the store has granted meanwhile is released in the background.
                self.reply_error(&id, &objects::refusal("cancelled", "the acquisition was cancelled"));
                return;
            }
            Some(Ok(TryAcquire::Acquired(guard))) => self.keep(&id, guard),
            Some(Ok(TryAcquire::Contended(holder))) => self.reply(&id, &objects::contended(&name, &holder)),
            Some(Err(error)) => self.reply_error(&id, &objects::error(&error)),
        }
        self.state().pending.remove(&id.to_string());
    }

    fn request(self: &Arc<Self>, id: &Value, wish: Wish) -> LockRequest {
        let defaults = &self.defaults;
        let (session, id, name) = (Arc::clone(self), id.clone(), wish.name.clone());
        let last: Mutex<Option<(Option<String>, Option<FencingToken>)>> = Mutex::default();
        let waits = wish.wait != Some(Duration::ZERO);
        let mut request = self.locker.lock(wish.name).on_contention(move |holder: &Holder| {
            let seen = (holder.owner.clone(), holder.token);
            let known = last.lock().unwrap_or_else(PoisonError::into_inner).replace(seen.clone());
            if waits && known.as_ref() != Some(&seen) {
                session.tell(&objects::waiting(&id, &name, holder));
            }
        });
        let ttl = wish.ttl.or(defaults.ttl.filter(|_| self.locker.capabilities().ttl));
        let lease = ttl.or(self.locker.timing().lease);
        let default_grace = (defaults.on_loss == OnLoss::Term).then(|| default_grace(lease));
        request = request.mode(wish.mode.unwrap_or(defaults.mode));
        if let Some(fair) = wish.fair.or(defaults.fair.then_some(true)) {
            request = request.fair(fair);
        }
        if let Some(window) = defaults.spread {
            request = request.spread(window);
        }
        if let Some(ttl) = ttl {
            request = request.ttl(ttl);
        }
        if let Some(margin) = wish.margin {
            request = request.margin(margin);
        }
        if let Some(renew) = wish.renew {
            request = request.renew(renew);
        }
        if let Some(grace) = wish.grace.or(defaults.grace).or(default_grace) {
            request = request.grace(grace);
        }
        if let Some(owner) = wish.owner.or_else(|| defaults.owner.clone()) {
            request = request.owner(owner);
        }
        if let Some(data) = wish.data {
            request = request.data(data);
        }
        if let Some(min_hold) = wish.min_hold.or(defaults.min_hold) {
            request = request.min_hold(min_hold);
        }
        if let Some(max_hold) = wish.max_hold.or(defaults.max_hold) {
            request = request.max_hold(max_hold);
        }
        if let Some(deadline) = wish.deadline {
            request = request.deadline(deadline);
        }
        request
    }

    /// Replies with the guard, and starts its task.
    fn keep(self: &Arc<Self>, id: &Value, guard: Guard) {
        let (sender, commands) = unbounded_channel();
        let number = {
            let mut state = self.state();
            if state.guards.is_empty() {
                state.last_sign = Instant::now();
            }
            state.last_guard += 1;
            let number = state.last_guard;
            state.guards.insert(number, Kept { commands: sender, signal: guard.loss_signal() });
            number
        };
        self.reply(id, &objects::acquired(number, &guard));
        self.spawn(held::serve(Arc::clone(self), number, guard, commands));
    }
}
