//! Acquires the lock, and shows the progress of the wait.

use std::{
    io::IsTerminal,
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lock_core::{Guard, Holder, LockName, LockRequest, Locker, TryAcquire};
use tokio::{sync::Notify, time::timeout};

use super::{plan::Plan, signals::Signals};
use crate::{
    exit::{self, Failure},
    output::{one_line, report, say},
    store::StoreLocation,
};

/// The end of the wait for the lock.
#[derive(Debug)]
pub(super) enum WaitOutcome {
    /// The lock is held; with the name of its store.
    Acquired(Guard, String),
    /// Another client holds the lock, and the time to wait is over.
    Contended,
    /// A signal ended the wait.
    Signal(i32),
}

/// How long the rollback of a request may take after a signal.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens the store and acquires the lock as the options say, unless a signal comes first.
pub(super) async fn acquire(plan: &Plan, signals: &Signals) -> Result<WaitOutcome, Failure> {
    let began = Instant::now();
    // A file system may hang as early as here.
    let locker = match signals.race(open_store(plan)).await? {
        ControlFlow::Continue(locker) => locker?,
        ControlFlow::Break(signal) => return Ok(WaitOutcome::Signal(signal)),
    };
    let progress = Arc::new(Progress::new(plan.verbose, plan.job.name.clone()));
    let acquired = progress.show_while(request_lock(plan, &locker, &progress, began));
    let acquired = signals.race(acquired).await?;
    progress.clear();
    let outcome = match acquired {
        ControlFlow::Continue(Ok(TryAcquire::Acquired(guard))) => {
            return Ok(WaitOutcome::Acquired(guard, locker.store()));
        }
        ControlFlow::Continue(Ok(TryAcquire::Contended(holder))) => {
            progress.contended(&holder);
            return Ok(WaitOutcome::Contended);
        }
        ControlFlow::Continue(Err(failure)) => Err(failure),
        ControlFlow::Break(signal) => Ok(WaitOutcome::Signal(signal)),
    };
    let _ = timeout(ROLLBACK_TIMEOUT, locker.wait_idle()).await;
    outcome
}

/// Opens the store, within the limit of `--wait`. Without a wait the store has its own limits.
async fn open_store(plan: &Plan) -> Result<Locker, Failure> {
    let opened = async { StoreLocation::choose_on_thread(plan.store.clone()).await?.open().await };
    match plan.wait {
        None | Some(Duration::ZERO) => opened.await,
        Some(limit) => timeout(limit, opened).await.unwrap_or_else(|_| {
            let message = format!(
                "the store was not open when the {} of --wait ended; \
                 check that the store answers, or wait longer",
                humantime::format_duration(limit)
            );
            Err(Failure::new(exit::UNAVAILABLE, message))
        }),
    }
}

/// Requests the lock as the options say; a limit of the wait counts from `began`. Fails at once if
/// this process runs under that very lock.
async fn request_lock(
    plan: &Plan,
    locker: &Locker,
    progress: &Arc<Progress>,
    began: Instant,
) -> Result<TryAcquire, Failure> {
    let under_itself = Arc::new(Notify::new());
    let request = {
        let (progress, under_itself, job) = (Arc::clone(progress), Arc::clone(&under_itself), plan.job.clone());
        let verbose = plan.verbose && plan.wait != Some(Duration::ZERO);
        build_request(plan, locker).on_contention(move |holder: &Holder| {
            if job.outer_locks.contain(&job.name, holder) {
                under_itself.notify_one();
            } else if verbose {
                progress.note_holder(holder);
            }
        })
    };
    let acquired = async {
        match plan.wait {
            Some(Duration::ZERO) => request.try_acquire().await,
            Some(limit) => request.acquire_within(limit.saturating_sub(began.elapsed())).await,
            None => request.acquire().await.map(TryAcquire::Acquired),
        }
    };
    let name = &plan.job.name;
    let never_free = || {
        let message = format!(
            "the lock \"{name}\" is held by the onelock that runs this command, so it would never be free here; \
             omit the inner onelock, or choose another name"
        );
        Failure::new(exit::USAGE, message)
    };
    tokio::select! {
        biased;
        acquired = acquired => match acquired? {
            TryAcquire::Contended(holder) if plan.job.outer_locks.contain(name, &holder) => Err(never_free()),
            acquired => Ok(acquired),
        },
        () = under_itself.notified() => Err(never_free()),
    }
}

fn build_request(plan: &Plan, locker: &Locker) -> LockRequest {
    let mut request = locker.lock(plan.job.name.as_str());
    if let Some(ttl) = plan.ttl {
        request = request.ttl(ttl);
    }
    if let Some(grace) = plan.job.grace {
        request = request.grace(grace);
    }
    if let Some(owner) = &plan.owner {
        request = request.owner(owner);
    }
    request
}

/// The output of `-v`: on a terminal one line that is updated and finally erased, elsewhere one
/// line per holder.
#[derive(Debug)]
struct Progress {
    verbose: bool,
    on_terminal: bool,
    name: LockName,
    began: Instant,
    holder: Mutex<Option<Holder>>,
}

impl Progress {
    fn new(verbose: bool, name: LockName) -> Self {
        let on_terminal = verbose && std::io::stderr().is_terminal();
        Self { verbose, on_terminal, name, began: Instant::now(), holder: Mutex::default() }
    }

    fn note_holder(&self, holder: &Holder) {
        let mut known = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = known.as_ref().is_none_or(|k| (&k.owner, k.token) != (&holder.owner, holder.token));
        *known = Some(holder.clone());
        drop(known);
        if self.on_terminal {
            self.draw();
        } else if self.verbose && is_new {
            report(&format!("waiting for \"{}\", held by {holder}", self.name));
        }
    }

    /// Runs `work`, and updates the line on the terminal every second.
    async fn show_while<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let mut clock = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = clock.tick(), if self.on_terminal => self.draw(),
            }
        }
    }

    fn draw(&self) {
        let holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(holder) = holder {
            let waited = self.began.elapsed().as_secs();
            let line = format!("waiting for \"{}\" for {waited} s, held by {holder}", self.name);
            say(&format!("\r\x1b[Konelock: {}", one_line(&line)));
        }
    }

    fn clear(&self) {
        let drawn = self.holder.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if self.on_terminal && drawn {
            say("\r\x1b[K");
        }
    }

    fn contended(&self, holder: &Holder) {
        if self.verbose {
            self.clear();
            report(&format!("\"{}\" is held by {holder}", self.name));
        }
    }
}
