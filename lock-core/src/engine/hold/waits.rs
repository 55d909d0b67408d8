//! Waits for the end and for the renewals of a held lock.

use std::time::Duration;

use super::LeaseState;
use crate::{
    engine::freeze::TICK,
    types::{ClockReading, FencingToken, Lost},
};

impl LeaseState {
    /// Waits for the loss, or `grace` before it when `early`. Cancel safe.
    pub(crate) async fn wait_lost(&self, early: bool) -> Lost {
        if early {
            self.wait_for(Self::check_early, self.timing.grace).await
        } else {
            self.wait_for(Self::check, Duration::ZERO).await
        }
    }

    /// Waits for the loss or the end of the guard with this token. Cancel safe.
    pub(crate) async fn wait_guarded(&self, token: Option<FencingToken>) -> Lost {
        self.wait_for(|hold, now| hold.check_guarded(now, token), Duration::ZERO).await
    }

    async fn wait_for(&self, check: impl Fn(&Self, ClockReading) -> Result<(), Lost>, ahead: Duration) -> Lost {
        if self.forked().is_some()
            && let Err(lost) = check(self, self.now())
        {
            return lost;
        }
        loop {
            let signal = self.lost.notified();
            tokio::pin!(signal);
            signal.as_mut().enable();
            let now = self.now();
            if let Err(lost) = check(self, now) {
                return lost;
            }
            // Timers stop while the machine is suspended, so no sleep is longer than a tick.
            let nap = self
                .remaining(now)
                .map_or(TICK, |left| left.saturating_sub(ahead).clamp(Duration::from_millis(1), TICK));
            tokio::select! {
                biased;
                () = signal => {}
                () = tokio::time::sleep(nap) => {}
            }
        }
    }

    /// Waits for the next confirmed renewal. Cancel safe.
    pub(crate) async fn wait_renewed(&self) {
        self.renewed.notified().await;
    }
}
