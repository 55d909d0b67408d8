//! The state that all clones of a `Locker` share, and the release of locks.

use std::{
    mem,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch, time::timeout};

use crate::{
    backend::{Backend, Capabilities, Release},
    engine::{
        hold::{LeaseState, LeaseStore},
        metrics::Metrics,
        queue::Queues,
        renewer::Renewer,
        repeats::Repeats,
        stand_back::Pace,
        timing::Timing,
    },
    mutex::Mutex,
    types::{Clock, ClockReading, Error, Lease, LeaseId, LockName, LockOptions, Operation, Process, no_reply},
};

/// The state that all clones of a `Locker`, its guards and its renewer share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) renewer: Arc<Renewer>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) capabilities: Capabilities,
    pub(crate) defaults: LockOptions,
    pub(crate) timing: Timing,
    pub(crate) prefix: String,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) lease_store: Arc<LeaseStore>,
    default_owner: String,
    /// The runtime of the latest acquisition, for guards that are dropped outside of any.
    runtime: Mutex<Option<Handle>>,
    /// The number of releases in the background.
    pub(crate) releasing: watch::Sender<usize>,
    pub(crate) process: Process,
    /// The store, opened anew by a child process.
    in_child: OnceLock<Arc<Self>>,
}

impl Shared {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        clock: Arc<dyn Clock>,
        defaults: LockOptions,
        timing: Timing,
        prefix: String,
    ) -> Self {
        let process = Process::current();
        let renewer = Arc::new(Renewer::new(Arc::clone(&backend), Arc::clone(&clock)));
        let metrics = Arc::new(Metrics::new(&backend.describe()));
        let lease_store = LeaseStore {
            backend: Arc::clone(&backend),
            clock: Arc::clone(&clock),
            detector: Arc::clone(&renewer.detector),
            metrics: Arc::clone(&metrics),
            process,
        };
        Self {
            renewer,
            queues: Arc::new(Queues::new(process)),
            capabilities: backend.capabilities(),
            metrics,
            lease_store: Arc::new(lease_store),
            backend,
            clock,
            defaults,
            timing,
            prefix,
            default_owner: default_owner(),
            runtime: Mutex::default(),
            releasing: watch::Sender::default(),
            process,
            in_child: OnceLock::new(),
        }
    }

    /// Returns the state to use in this process: in a child made by `fork`, one of its own.
    pub(crate) fn here(self: &Arc<Self>) -> Result<Arc<Self>, Error> {
        if self.process.is_current() {
            return Ok(Arc::clone(self));
        }
        let child = match self.in_child.get() {
            Some(child) => child,
            None => {
                let backend = self.backend.reopen()?;
                let clock = Arc::clone(&self.clock);
                let child = Self::new(backend, clock, self.defaults.clone(), self.timing, self.prefix.clone());
                // Set, and not initialised in place: a fork meanwhile would leave it locked.
                let _ = self.in_child.set(Arc::new(child));
                self.in_child.get().expect("was just set")
            }
        };
        child.here()
    }

    /// Returns the timing of a request. `None` stands for that of the locker, whose options are
    /// checked already.
    pub(crate) fn timing_of(&self, options: Option<&LockOptions>) -> Result<Option<Box<Timing>>, Error> {
        let Some(options) = options.filter(|options| **options != self.defaults) else { return Ok(None) };
        Ok(Some(Box::new(Timing::new(options, self.capabilities, self.backend.timings())?)))
    }

    /// Returns how soon waiters of other processes ask.
    pub(crate) fn pace(&self) -> Pace {
        Pace::new(self.backend.timings(), self.capabilities)
    }

    pub(crate) fn runtime(&self) -> Option<Handle> {
        self.runtime.lock().clone()
    }

    pub(crate) fn note_runtime(&self, current: Handle) {
        let mut runtime = self.runtime.lock();
        if runtime.as_ref().is_none_or(|noted| noted.id() != current.id()) {
            *runtime = Some(current);
        }
    }

    pub(crate) fn owner(&self) -> &str {
        &self.default_owner
    }

    /// Returns the name in the store, with the prefix.
    pub(crate) fn name(&self, name: impl TryInto<LockName, Error: Into<Error>>) -> Result<LockName, Error> {
        Ok(name.try_into().map_err(Into::into)?.with_prefix(&self.prefix)?)
    }

    /// Releases `lease`, with up to three attempts while the store does not reply, and more while
    /// it throttles. `limit` bounds each attempt.
    ///
    /// If an earlier reply was lost, "not held" can mean that the earlier attempt released the
    /// lock. That applies only if the lock was `held` before.
    pub(crate) async fn release_repeatedly(
        &self,
        lease: &Lease,
        hold_for: Duration,
        limit: Duration,
        held: bool,
    ) -> Result<Release, Error> {
        let mut ambiguous = false;
        let mut repeats = None;
        loop {
            let answer =
                timeout(limit, self.backend.release(lease, hold_for)).await.unwrap_or_else(|_| Err(no_reply(limit)));
            match answer {
                // An earlier request released the lock, and its reply was lost.
                Ok(Release::NotHeld(_)) if ambiguous && held => {
                    self.metrics.ambiguity_resolved("release", "released");
                    return Ok(Release::Released);
                }
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    ambiguous |= error.is_ambiguous();
                    let now = self.clock.now();
                    let repeats = repeats.get_or_insert_with(|| Repeats::of_release(limit, now));
                    if let Some((pause, _)) = repeats.after(&error, now) {
                        tokio::time::sleep(pause).await;
                        continue;
                    }
                    let error = error.with_operation(Operation::Release).with_name(&lease.name);
                    return Err(error.with_store(self.backend.describe()));
                }
            }
        }
    }

    /// Ends `hold`, which was valid at `now` if `held`, and releases its lease without an `await`.
    /// Its turn ends after that. `became` is as for [`in_background`](Self::in_background).
    pub(crate) fn release_in_background(
        self: &Arc<Self>,
        hold: &Arc<LeaseState>,
        now: ClockReading,
        held: bool,
        became: fn(&Metrics, &'static str),
    ) {
        self.stop_renewing(hold, now);
        let releasing = EndsTurn { hold: Arc::clone(hold), shared: Arc::clone(self) };
        let (limit, hold_for) = (hold.timing.attempt_timeout, hold.hold_for());
        let work = async move |lease: Lease| {
            let _requests = timeout(limit, releasing.hold.requests.lock()).await;
            let answer = releasing.shared.release_repeatedly(&lease, hold_for, limit, held).await;
            if let Err(error) = &answer {
                tracing::warn!(name = %lease.name, %error, "release in the background failed: the lock stays held \
                    until its ttl ends");
            }
            answer.is_ok()
        };
        self.in_background(&hold.lease, hold_for, work, became);
    }

    /// Ends the renewals of `hold`, because its release begins at `now`.
    pub(crate) fn stop_renewing(&self, hold: &Arc<LeaseState>, now: ClockReading) {
        hold.note_release();
        hold.close(now);
        self.renewer.forget(hold);
    }

    /// Releases `lease` without an `await`: immediately if the backend can, otherwise by `work` on
    /// a runtime. `work` returns whether it released the lock.
    ///
    /// Calls `became` once, with the outcome: `released`, `background` or `leaked`.
    pub(crate) fn in_background<F>(
        &self,
        lease: &Lease,
        hold_for: Duration,
        work: impl FnOnce(Lease) -> F,
        became: fn(&Metrics, &'static str),
    ) where
        F: Future<Output = bool> + Send + 'static,
    {
        if self.backend.process_bound().is_some_and(|bound| bound.release_now(lease, hold_for)) {
            return became(&self.metrics, "released");
        }
        let counted = Counted::new(&self.releasing);
        let (backend, metrics) = (Arc::clone(&self.backend), Arc::clone(&self.metrics));
        let unfinished = Unfinished { lease: lease.clone(), backend, metrics, became, freed: None, counted };
        let Some(runtime) = tokio::runtime::Handle::try_current().ok().or_else(|| self.runtime()) else { return };
        let work = work(lease.clone());
        // The caller is a `Drop`, which cannot wait for the store.
        runtime.spawn(async move {
            let mut unfinished = unfinished;
            unfinished.freed = Some(work.await);
        });
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !self.process.is_current() {
            // Its connections and files are those of the parent. Closing them in order would
            // disturb the parent, and wait for threads that do not exist in this process.
            mem::forget(Arc::clone(&self.backend));
        }
    }
}

/// Returns `host:pid-` and a random part, because pids repeat after a reboot and containers share
/// host names.
fn default_owner() -> String {
    let host =
        nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "unknown".into());
    let random = LeaseId::random().to_string();
    format!("{host}:{}-{}", std::process::id(), &random[..8])
}

/// Ends the turn of a lease with its release, also if the release panics or its runtime ends.
/// Otherwise a loss signal that outlives the guard would keep the turn.
struct EndsTurn {
    hold: Arc<LeaseState>,
    shared: Arc<Shared>,
}

impl Drop for EndsTurn {
    fn drop(&mut self) {
        if self.hold.forked().is_none() {
            self.hold.note_end(|| self.shared.pace());
            self.hold.end_turn();
        }
    }
}

/// A release in the background. It fails if there is no runtime, or if the runtime ends first.
struct Unfinished {
    lease: Lease,
    backend: Arc<dyn Backend>,
    metrics: Arc<Metrics>,
    became: fn(&Metrics, &'static str),
    freed: Option<bool>,
    #[expect(dead_code, reason = "counted until the release has ended")]
    counted: Counted,
}

/// Counts one release that `Locker::wait_idle` waits for.
struct Counted(watch::Sender<usize>);

impl Counted {
    fn new(releasing: &watch::Sender<usize>) -> Self {
        releasing.send_modify(|count| *count += 1);
        Self(releasing.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.freed == Some(true) {
            return (self.became)(&self.metrics, "background");
        }
        (self.became)(&self.metrics, "leaked");
        if self.freed.is_none() {
            tracing::warn!(name = %self.lease.name, "lock not released: no runtime available; it expires with its \
                ttl, if it has one");
        }
        // Local resources, such as an open file, would otherwise keep the lock held until the
        // process ends.
        if let Some(bound) = self.backend.process_bound() {
            bound.on_lost(&self.lease);
        }
    }
}
