//! Acquires the lock, and shows the progress of the wait.

use std::{
    io::IsTerminal,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use lock_core::{Error, Guard, Holder, LockName, LockRequest, Locker, TryAcquire};
use tokio::{sync::Notify, time::timeout};

use super::{plan::Wanted, signals::Signals};
use crate::{
    exit::{self, Failure},
    one_line::one_line,
    output::{report, say},
    store::StoreLocation,
};

/// The end of the wait for the lock.
#[derive(Debug)]
pub(crate) enum WaitOutcome<A> {
    /// The lock is held; with the name of its store.
    Acquired(Guard, String),
    /// Another client holds the lock, and the time to wait is over.
    Contended,
    /// A signal ended the wait.
    Signal(i32),
    /// The caller has no use for the lock any more.
    Abandoned(A),
}

/// How long the rollback of a request may take after a signal.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens the store and acquires the lock as the options say, unless a signal comes first or
/// `abandoned` is ready.
pub(crate) async fn acquire<A>(
    wanted: &Wanted,
    signals: &Signals,
    abandoned: impl Future<Output = A>,
) -> Result<WaitOutcome<A>, Failure> {
    tokio::pin!(abandoned);
    let began = Instant::now();
    let progress = Arc::new(Progress::new(wanted.verbose, wanted.name.clone()));
    // A file system may hang as early as here.
    let opened = progress.show_while(open_store(wanted));
    let (locker, is_default) = match signals.race(unless(&mut abandoned, opened)).await? {
        ControlFlow::Continue(Ok(opened)) => opened?,
        ControlFlow::Continue(Err(why)) => return Ok(WaitOutcome::Abandoned(why)),
        ControlFlow::Break(signal) => return Ok(WaitOutcome::Signal(signal)),
    };
    let acquired = progress.show_while(request_lock(wanted, &locker, &progress, began));
    let acquired = signals.race(unless(&mut abandoned, acquired)).await?;
    progress.clear();
    let outcome = match acquired {
        ControlFlow::Continue(Ok(Ok(TryAcquire::Acquired(guard)))) => {
            // A refused job shares its store with the holder. This one may have a store to itself.
            if wanted.verbose && is_default {
                report(&format!("\"{}\" was acquired in the default store {}", wanted.name, locker.store()));
            }
            return Ok(WaitOutcome::Acquired(guard, locker.store()));
        }
        ControlFlow::Continue(Ok(Ok(TryAcquire::Contended(holder)))) => {
            progress.contended(&holder);
            return Ok(WaitOutcome::Contended);
        }
        ControlFlow::Continue(Ok(Err(failure))) => Err(failure),
        ControlFlow::Continue(Err(why)) => Ok(WaitOutcome::Abandoned(why)),
        ControlFlow::Break(signal) => Ok(WaitOutcome::Signal(signal)),
    };
    let _ = timeout(ROLLBACK_TIMEOUT, locker.wait_idle()).await;
    outcome
}

/// Runs `work`, which is dropped with an error if `abandoned` is ready first.
async fn unless<A, T>(abandoned: impl Future<Output = A>, work: impl Future<Output = T>) -> Result<T, A> {
    tokio::select! {
        biased;
        why = abandoned => Err(why),
        done = work => Ok(done),
    }
}

/// Opens the store, within the limit of `--wait`, and returns whether it is the default store.
/// Without a wait the store has its own limits.
async fn open_store(wanted: &Wanted) -> Result<(Locker, bool), Failure> {
    let opened = async {
        let store = StoreLocation::choose_on_thread(wanted.store.clone()).await?;
        store.warn_of_another_directory(Some(&wanted.name)).await?;
        Ok((store.open().await?, store.is_default()))
    };
    match wanted.wait {
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
    wanted: &Wanted,
    locker: &Locker,
    progress: &Arc<Progress>,
    began: Instant,
) -> Result<TryAcquire, Failure> {
    let under_itself = Arc::new(Notify::new());
    let request = {
        let (progress, under_itself) = (Arc::clone(progress), Arc::clone(&under_itself));
        let (name, outer_locks) = (wanted.name.clone(), wanted.outer_locks.clone());
        let waits = wanted.wait != Some(Duration::ZERO);
        let (verbose, observer) = (wanted.verbose && waits, Arc::clone(&progress));
        let request = build_request(wanted, locker).on_contention(move |holder: &Holder| {
            progress.note_answer();
            if outer_locks.contain(&name, holder) {
                under_itself.notify_one();
            } else if verbose {
                progress.note_holder(holder);
            }
        });
        // An attempt without a wait ends at once, with the same error.
        if waits { request.on_retry(move |error, left| observer.note_retry(error, left)) } else { request }
    };
    let acquired = async {
        match wanted.wait {
            Some(Duration::ZERO) => request.try_acquire().await,
            Some(limit) => request.acquire_within(limit.saturating_sub(began.elapsed())).await,
            None => request.acquire().await.map(TryAcquire::Acquired),
        }
    };
    let name = &wanted.name;
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
            TryAcquire::Contended(holder) if wanted.outer_locks.contain(name, &holder) => Err(never_free()),
            acquired => Ok(acquired),
        },
        () = under_itself.notified() => Err(never_free()),
    }
}

fn build_request(wanted: &Wanted, locker: &Locker) -> LockRequest {
    let mut request = locker.lock(wanted.name.as_str()).mode(wanted.mode);
    if let Some(ttl) = wanted.ttl {
        request = request.ttl(ttl);
    }
    if let Some(grace) = wanted.grace {
        request = request.grace(grace);
    }
    if let Some(owner) = &wanted.owner {
        request = request.owner(owner);
    }
    request
}

/// The output of `-v`: on a terminal one line that is updated and finally erased, elsewhere one
/// line per holder. A store that does not answer is reported on a terminal without `-v` too.
#[derive(Debug)]
struct Progress {
    verbose: bool,
    stderr_is_terminal: bool,
    name: LockName,
    began: Instant,
    holder: Mutex<Option<Holder>>,
    /// Whether an attempt has ended.
    answered: AtomicBool,
    /// The failure that was reported last; `None` also after an answer of the store.
    failure: Mutex<Option<String>>,
}

impl Progress {
    fn new(verbose: bool, name: LockName) -> Self {
        let stderr_is_terminal = std::io::stderr().is_terminal();
        Self {
            verbose,
            stderr_is_terminal,
            name,
            began: Instant::now(),
            holder: Mutex::default(),
            answered: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    /// Whether the line of `-v` is updated in place.
    fn has_live_line(&self) -> bool {
        self.verbose && self.stderr_is_terminal
    }

    /// Reports that an attempt failed and is repeated, once for each failure of a series.
    fn note_retry(&self, error: &Error, left: Duration) {
        self.answered.store(true, Ordering::Relaxed);
        let failure = Failure::from(error.clone()).to_string();
        let known = self.failure.lock().unwrap_or_else(PoisonError::into_inner).replace(failure.clone());
        if (self.verbose || self.stderr_is_terminal) && known.as_ref() != Some(&failure) {
            self.clear();
            report(&format!("{failure}; retrying for up to {} s", left.as_secs_f64().ceil()));
        }
    }

    /// Reports once that the first request has had no answer yet.
    fn note_silence(&self) {
        let answered = self.answered.load(Ordering::Relaxed);
        if (self.verbose || self.stderr_is_terminal) && !answered {
            report(&format!("the store has not answered yet about \"{}\"", self.name));
        }
    }

    fn note_answer(&self) {
        self.answered.store(true, Ordering::Relaxed);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn note_holder(&self, holder: &Holder) {
        let mut known = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = known.as_ref().is_none_or(|k| (&k.owner, k.token) != (&holder.owner, holder.token));
        *known = Some(holder.clone());
        drop(known);
        if self.has_live_line() {
            self.draw();
        } else if self.verbose && is_new {
            report(&format!("waiting for \"{}\", held by {holder}", self.name));
        }
    }

    /// Runs `work`, and updates the line on the terminal every second.
    async fn show_while<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let mut clock = tokio::time::interval(Duration::from_secs(1));
        let mut seconds = 0;
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = clock.tick() => {
                    // The first tick comes at once.
                    if seconds == 1 {
                        self.note_silence();
                    }
                    if self.has_live_line() {
                        self.draw();
                    }
                    seconds += 1;
                }
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
        if self.has_live_line() && drawn {
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
