//! Acquires the lock, and shows the progress of the wait.

use std::{
    future::pending,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use lock_core::{Guard, Holder, LockName, LockOptions, LockRequest, Locker, TryAcquire};
use tokio::{sync::Notify, time::timeout};

use super::{
    plan::Wanted,
    progress::{Progress, Talk},
    signals::Signals,
    standstill::Standstill,
};
use crate::{
    exit::{self, Failure},
    output::{flush_briefly, report},
    store::StoreLocation,
    who::Who,
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

/// The shortest limit for opening the directory of a lock file.
const SHORTEST_OPEN: Duration = Duration::from_secs(5);
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
    let progress = Arc::new(Progress::new(wanted.talk, wanted.shown.clone()));
    // A file system may hang as early as here. Boxed, because each of the futures around it would
    // copy it: tens of kilobytes, which are new memory at the start of a process.
    let opened = progress.show_while(Box::pin(open_store(wanted)));
    let (locker, is_default) = match signals.race(unless(&mut abandoned, opened)).await? {
        ControlFlow::Continue(Ok(opened)) => opened?,
        ControlFlow::Continue(Err(why)) => return Ok(WaitOutcome::Abandoned(why)),
        ControlFlow::Break(signal) => return Ok(WaitOutcome::Signal(signal)),
    };
    let acquired = progress.show_while(Box::pin(request_lock(wanted, &locker, &progress, began)));
    let acquired = signals.race(unless(&mut abandoned, acquired)).await?;
    progress.clear();
    let outcome = match acquired {
        ControlFlow::Continue(Ok(Ok(TryAcquire::Acquired(guard)))) => {
            // A refused job shares its store with the holder. This one may have a store to itself.
            if wanted.talk == Talk::Verbose && is_default {
                report(&format!("\"{}\" was acquired in the default store {}", wanted.shown, locker.store()));
            }
            report_takeover(wanted, &guard);
            // They come before the output of the command, but a terminal that takes no text must
            // not keep the command from its start.
            flush_briefly().await;
            return Ok(WaitOutcome::Acquired(guard, locker.store()));
        }
        ControlFlow::Continue(Ok(Ok(TryAcquire::Contended(holder)))) => {
            if wanted.talk == Talk::Verbose {
                report(&format!("\"{}\" is held by {holder}", wanted.shown));
            }
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
        wanted.store_names.chosen.get_or_init(|| store.shown());
        store.warn_of_another_directory(Some(&wanted.name)).await?;
        let locker = store.open().await?;
        wanted.store_names.opened.get_or_init(|| locker.store());
        if wanted.becomes_command {
            refuse_limits(locker.options())?;
        }
        Ok((locker, store.is_default()))
    };
    let limit = match &wanted.store.lock_file {
        // As flock, which opens the file before its time begins.
        Some(_) => wanted.wait.map(|limit| limit.max(SHORTEST_OPEN)),
        None => wanted.wait,
    };
    match limit {
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

/// Refuses the options of a store that need a process beside the command, as the command line
/// refuses its own.
fn refuse_limits(options: &LockOptions) -> Result<(), Failure> {
    if options.min_hold.is_zero() && options.max_hold.is_none() {
        return Ok(());
    }
    let message = "the store sets min_hold or max_hold, which no process keeps after --no-fork; \
                   omit --no-fork, or remove the option from the store";
    Err(Failure::new(exit::CONFIG, message))
}

/// Requests the lock as the options say; a limit of the wait counts from `began`. Fails at once if
/// this process runs under that very lock.
async fn request_lock(
    wanted: &Wanted,
    locker: &Locker,
    progress: &Arc<Progress>,
    began: Instant,
) -> Result<TryAcquire, Failure> {
    progress.note_delay(wanted.spread.unwrap_or(locker.options().spread));
    let (under_itself, unknown) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let standstill = Arc::new(Standstill::default());
    let request = {
        let (progress, under_itself) = (Arc::clone(progress), Arc::clone(&under_itself));
        let (unknown, standstill) = (Arc::clone(&unknown), Arc::clone(&standstill));
        let (name, mode, outer_locks) = (wanted.shown.clone(), wanted.mode, wanted.outer_locks.clone());
        let waits = wanted.wait != Some(Duration::ZERO);
        let observer = Arc::clone(&progress);
        let request = build_request(wanted, locker).on_contention(move |holder: &Holder| {
            progress.note_answer();
            if outer_locks.exclude(&name, mode, holder) {
                under_itself.notify_one();
                return;
            }
            if outer_locks.may_contain(holder) {
                unknown.notify_one();
            }
            if waits {
                standstill.note(outer_locks.kept_out(&name, mode, holder), tokio::time::Instant::now());
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
    let name = &wanted.shown;
    let never_free = |why: &str| Err(never_free(name, why));
    let own = "so it would never be free here";
    let found_out = async {
        unknown.notified().await;
        // Once is enough, because an outer lock stays held.
        if !is_held_outside(wanted, locker).await {
            pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        acquired = acquired => match acquired? {
            TryAcquire::Contended(holder)
                if wanted.outer_locks.exclude(name, wanted.mode, &holder)
                    || (wanted.outer_locks.may_contain(&holder) && is_held_outside(wanted, locker).await) =>
            {
                never_free(own)
            }
            acquired => Ok(acquired),
        },
        () = under_itself.notified() => never_free(own),
        () = found_out => never_free(own),
        () = stands_still(wanted, locker, &standstill) => {
            never_free("and a client that waits for it keeps the free permits, so this command would get none")
        }
    }
}

fn never_free(name: &LockName, why: &str) -> Failure {
    let message = format!(
        "the lock \"{name}\" is held by the onelock that runs this command, {why}; omit the inner onelock, or choose \
         another name"
    );
    Failure::new(exit::USAGE, message)
}

/// Looks up a holder of whom a refusal says nothing, and returns whether it is a process that this
/// one runs under. The look names its process, which would cost each waiter too much.
async fn is_held_outside(wanted: &Wanted, locker: &Locker) -> bool {
    let holder = locker.admin().inspect(wanted.name.as_str()).await;
    matches!(holder, Ok(Some(holder)) if wanted.outer_locks.exclude(&wanted.shown, wanted.mode, &holder))
}

/// Returns once permits of a lock that this process runs under stay free, and another look at the
/// lock shows the same holders.
async fn stands_still(wanted: &Wanted, locker: &Locker, standstill: &Standstill) {
    loop {
        let holders = standstill.lasts().await;
        let now = locker.admin().inspect(wanted.name.as_str()).await.ok().flatten();
        let now = now.and_then(|holder| wanted.outer_locks.kept_out(&wanted.shown, wanted.mode, &holder));
        if now.as_ref() == Some(&holders) {
            return;
        }
        standstill.note(now, tokio::time::Instant::now());
    }
}

/// Tells that the previous holder ended without a release. Its work may be half done.
fn report_takeover(wanted: &Wanted, guard: &Guard) {
    let says_its_end = |holder: &&Holder| !Who::of(holder).no_fork;
    if let Some(holder) = guard.crashed_holder().filter(says_its_end).filter(|_| wanted.talk != Talk::Quiet) {
        let name = &wanted.shown;
        report(&format!("\"{name}\" was taken over from a holder that ended without releasing it: {holder}"));
    }
}

fn build_request(wanted: &Wanted, locker: &Locker) -> LockRequest {
    let request = wanted.limits.set_on(locker.lock(wanted.name.as_str()), wanted.began);
    let mut request = request.mode(wanted.mode).data(wanted.data.clone());
    if wanted.fair {
        request = request.fair(true);
    }
    if let Some(window) = wanted.spread {
        request = request.spread(window);
    }
    if let Some(ttl) = wanted.ttl {
        request = request.ttl_if_supported(ttl);
    }
    if let Some(grace) = wanted.grace {
        request = request.grace(grace);
    }
    if let Some(owner) = &wanted.owner {
        request = request.owner(owner);
    }
    request
}
