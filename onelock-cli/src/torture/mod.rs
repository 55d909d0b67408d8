//! `onelock torture`: many processes contend on the user's store, some are killed, frozen or cut
//! off, and the recorded history is checked.
//!
//! The parent ([`parent`]) injects the faults; its children ([`worker`]) run the same program and
//! acquire the locks. They share the directory of the run. It holds a journal for each task of a
//! child ([`journal`]), and the protected resource of each name ([`resource`]). Each child reaches
//! the store by its own route ([`route`]). The run removes all its traces, even if a signal ends it
//! ([`cleanup`]).

mod cleanup;
mod journal;
mod parent;
mod process;
mod report;
mod resource;
mod route;
mod shared;
mod worker;

use std::{
    fs,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use lock_core::{
    Locker, TryAcquire,
    backend::{LeaseId, Release},
};
use lock_history::{Checks, check};

use self::{
    cleanup::{clean_up, create_run_directory},
    parent::Parent,
    report::{TortureReport, print_no_result},
    route::Route,
    shared::TortureRun,
};
use crate::{
    args::TortureArgs,
    exit::{self, Exit, Failure},
    live::LiveLine,
    output::say,
    probes,
    run::signals::Signals,
    runtime::runtime,
    store::StoreLocation,
};

pub(crate) use self::worker::run_worker;

/// A free lock must be acquired within the longest lease plus this slack, because a busy machine is
/// no violation. A short run allows less.
const SLACK: Duration = Duration::from_secs(20);
const MIN_SLACK: Duration = Duration::from_secs(5);
/// How long a process is frozen on a store without expiry. A frozen holder keeps its lock there,
/// and all other processes only wait.
const FROZEN_ON_FILES: Duration = Duration::from_millis(500);

/// Runs `onelock torture`.
pub(crate) fn torture(args: TortureArgs) -> Result<Exit, Failure> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let (store, exit) = match StoreLocation::choose_for_probes(&args.store) {
        Ok(store) => {
            let runtime = runtime()?;
            let progress = LiveLine::new();
            let run = async { run_torture(&args, &store, seed, &Signals::block_termination()?, &progress).await };
            let exit = runtime.block_on(run);
            // Does not wait for a call on a file system that hangs.
            runtime.shutdown_background();
            (Some(store.shown()), exit)
        }
        Err(failure) => (None, Err(failure)),
    };
    match exit {
        Err(failure) => {
            print_no_result(store.as_deref(), seed, &failure, args.json)?;
            Ok(Exit::Code(failure.code))
        }
        exit => exit,
    }
}

async fn run_torture(
    args: &TortureArgs,
    store: &StoreLocation,
    seed: u64,
    signals: &Signals,
    progress: &LiveLine,
) -> Result<Exit, Failure> {
    let id = LeaseId::random().to_string();
    let prefix = format!("onelock-torture/{id}/");
    progress.set("onelock torture: opening the store");
    let opened = signals.race(open(store, &prefix)).await?;
    progress.clear();
    let (locker, route) = match opened {
        ControlFlow::Continue(opened) => opened?,
        ControlFlow::Break(signal) => return Ok(Exit::Signal(signal)),
    };
    let run = TortureRun { directory: create_run_directory(&id)?, prefix, names: args.names, ttl: args.ttl };
    let has_ttl = locker.capabilities().ttl;
    say(&format!("torturing {} for {} with seed {seed}\n", locker.store(), humantime::format_duration(args.time)));
    let longest_fault = if has_ttl { 2 * args.ttl } else { FROZEN_ON_FILES };
    let mut parent = Parent::new(&run, store, &route, seed, longest_fault);
    let started = Instant::now();
    match signals.race(parent.inject_faults(args.processes, args.time, progress)).await? {
        ControlFlow::Continue(done) => done.map_err(|e| Failure::start("the processes", &e))?,
        ControlFlow::Break(signal) => {
            drop(parent);
            return Ok(clean_up_after_signal(signal, signals, &locker, &run, progress).await);
        }
    }
    progress.set("onelock torture: checking the history");
    let (events, errors) = parent.collect().map_err(|e| Failure::os("reading the journals", e))?;
    let bound = (args.time / 2).clamp(MIN_SLACK, SLACK) + parent.lateness + 2 * longest_lease(&locker, &run);
    let history = check(&events, &checks(&locker, bound));
    progress.set("onelock torture: removing the locks of this run from the store");
    let left = match signals.race(clean_up(&locker, &run, bound)).await? {
        ControlFlow::Continue(left) => left,
        ControlFlow::Break(signal) => return Ok(clean_up_after_signal(signal, signals, &locker, &run, progress).await),
    };
    progress.clear();
    if let Some(first) =
        parent.unexpected_exits.first().filter(|_| history.violations.is_empty() && left.stuck.is_empty())
    {
        let _ = fs::remove_dir_all(&run.directory);
        return Err(Failure::new(exit::OS, format!("{first}; its journal is incomplete, so the run proves nothing")));
    }
    let report = TortureReport {
        store: locker.store(),
        seed,
        processes: args.processes,
        took: started.elapsed(),
        bound,
        faults: parent.faults,
        not_cut: route.why_direct(),
        errors,
        left,
        hung: parent.hung,
        history,
        journals: run.directory.clone(),
    };
    let passed = report.passed();
    if passed != Some(false) {
        let _ = fs::remove_dir_all(&run.directory);
    }
    report.print(args.json)?;
    Ok(Exit::Code(match passed {
        Some(true) => 0,
        Some(false) => exit::NOT_ACQUIRED,
        None => exit::UNAVAILABLE,
    }))
}

async fn open(store: &StoreLocation, prefix: &str) -> Result<(Locker, Route), Failure> {
    let locker = store.open().await?;
    check_that_store_works(&locker, &format!("{prefix}0")).await?;
    Ok((locker, Route::find(store).await))
}

/// Acquires and releases a lock of this run. An error of the store is then reported at once, and
/// not as an error of the workers at the end of the run. A store that does not reply delays the
/// error only by its timeouts.
async fn check_that_store_works(locker: &Locker, name: &str) -> Result<(), Failure> {
    if let TryAcquire::Acquired(guard) = probes::request(locker, name).try_acquire().await? {
        let _: Release = guard.release().await?;
    }
    Ok(())
}

fn checks(locker: &Locker, bound: Duration) -> Checks {
    Checks { obtainable_within: Some(bound), undisturbed: true, hands_over: locker.capabilities().hand_over }
}

/// Returns how long the store keeps a lock without a renewal; zero if the lock ends with its
/// process.
fn longest_lease(locker: &Locker, run: &TortureRun) -> Duration {
    if locker.capabilities().ttl { run.ttl } else { locker.timing().lease.unwrap_or_default() }
}

/// Cleans up after a run that a signal has ended. Its processes are dead.
async fn clean_up_after_signal(
    signal: i32,
    signals: &Signals,
    locker: &Locker,
    run: &TortureRun,
    progress: &LiveLine,
) -> Exit {
    progress.clear();
    signals.unblock();
    let _ = fs::remove_dir_all(&run.directory);
    say("onelock: interrupted; removing the locks of this run from the store (interrupt again to leave them)\n");
    locker.wait_idle().await;
    let bound = MIN_SLACK + 2 * longest_lease(locker, run);
    let left = clean_up(locker, run, bound).await;
    for what in left.stuck.iter().chain(&left.kept) {
        say(&format!("onelock: not removed: {what}\n"));
    }
    Exit::Signal(signal)
}
