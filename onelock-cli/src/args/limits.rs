//! The options that limit how long a lock is held.

use std::time::{Duration, Instant};

use clap::Args;
use lock_core::LockRequest;

use super::values::duration_with_unit;

// Not a documentation comment: clap would make it the help of the commands that have these options.
// Limits of one acquisition, in place of those of the config string.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct LimitArgs {
    /// Keep the lock at least this long, even if it is released earlier, such as 10m: a schedule
    /// that fires twice then runs once [default: the store's min_hold option, else 0s].
    #[arg(long, value_name = "DURATION", value_parser = duration_with_unit, allow_hyphen_values = true)]
    pub(crate) min_hold: Option<Duration>,

    /// Lose the lock once it was held for this long, such as 2h, so that a job that hangs is
    /// stopped [default: the store's max_hold option, else no limit].
    #[arg(long, value_name = "DURATION", value_parser = duration_with_unit, allow_hyphen_values = true)]
    pub(crate) max_hold: Option<Duration>,

    /// Lose the lock this long after the start of this command, the wait included, such as 14m. No
    /// lease outlives it, so it suits a caller that is stopped at a known time.
    #[arg(long, value_name = "DURATION", value_parser = duration_with_unit, allow_hyphen_values = true)]
    pub(crate) deadline: Option<Duration>,
}

impl LimitArgs {
    /// Sets these limits on a request of a command that began at `began`.
    pub(crate) fn set_on(self, mut request: LockRequest, began: Instant) -> LockRequest {
        if let Some(min_hold) = self.min_hold {
            request = request.min_hold(min_hold);
        }
        if let Some(max_hold) = self.max_hold {
            request = request.max_hold(max_hold);
        }
        if let Some(deadline) = self.deadline {
            request = request.deadline(deadline.saturating_sub(began.elapsed()));
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use lock_core::{Locker, TryAcquire, memory::MemoryBackend};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_deadline_counts_from_the_start_of_the_command() {
        let limits = LimitArgs { deadline: Some(MINUTE), ..LimitArgs::default() };
        let locker = Locker::new(MemoryBackend::new()).unwrap();
        let request = |began| limits.set_on(locker.lock("x"), began);
        let now = Instant::now();
        let passed = now.checked_sub(MINUTE).expect("the machine has run for a minute");
        assert!(request(passed).try_acquire().await.is_err(), "the deadline has passed");
        assert!(request(now).try_acquire().await.is_ok_and(|outcome| matches!(outcome, TryAcquire::Acquired(_))));
    }
}
