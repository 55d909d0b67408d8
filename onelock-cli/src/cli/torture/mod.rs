//! `onelock torture`: many processes contend on the user's own store, some are killed, frozen and cut off, and the recorded history is checked.
//!
//! The parent ([`parent`]) never takes a lock; its children ([`worker`]) are this same program. They meet in a directory of the run's
//! own: a journal for each task of a child ([`journal`]), and the protected resource of each name ([`resource`]). Each child has a way of its own to the
//! store ([`link`]). In the end, and when somebody ends the run, nothing of it stays behind ([`cleaning`]).

mod cleaning;
mod journal;
mod link;
mod parent;
mod process;
mod report;
mod resource;
mod worker;

use std::{
    fs,
    ops::ControlFlow,
    path::PathBuf,
    time::{Duration, Instant},
};

use lock_core::{
    LeaseId, Locker, TryAcquire,
    backend::Release,
    clock::{Clock, SystemClock},
    history::{Rules, check},
};

use self::{
    cleaning::{clean_up, own_directory},
    link::Route,
    parent::Parent,
    report::Outcome,
};
use super::{
    args::TortureArgs,
    exit::{self, Exit, Failure},
    run,
    signals::Signals,
    store::Store,
    trials,
    waiting::say,
};

pub(super) use worker::work;

/// How many locks a process asks for at a time. Each task is a worker of the history.
const TASKS: u64 = 4;

/// What all processes of one run agree on.
#[derive(Debug, Clone)]
struct Run {
    directory: PathBuf,
    /// Before every name of this run, and in no name of anybody else.
    prefix: String,
    names: u32,
    ttl: Duration,
}

impl Run {
    fn name(&self, index: u32) -> String {
        format!("{}{index}", self.prefix)
    }

    /// The children end when it exists.
    fn stop_file(&self) -> PathBuf {
        self.directory.join("stop")
    }
}

/// A lock that nobody holds must be had within the longest lease and this, less for a run that is over before: a busy machine is no violation.
const SLACK: Duration = Duration::from_secs(20);
const LEAST_SLACK: Duration = Duration::from_secs(5);
/// Where locks do not expire a frozen holder keeps its lock, and all others only wait.
const FROZEN_ON_FILES: Duration = Duration::from_millis(500);

/// `onelock torture`
pub(super) fn torture(args: TortureArgs) -> Result<Exit, Failure> {
    let runtime = run::runtime()?;
    let exit = runtime.block_on(async { tortured(args, &Signals::block_ending()?).await });
    // A call on a file system that hangs is not waited for.
    runtime.shutdown_background();
    exit
}

async fn tortured(args: TortureArgs, signals: &Signals) -> Result<Exit, Failure> {
    let id = LeaseId::random().to_string();
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let store = Store::choose(&args.store)?;
    let prefix = format!("onelock-torture/{id}/");
    let opened = async {
        let locker = store.open().await?;
        works(&locker, &format!("{prefix}0")).await?;
        Ok::<_, Failure>((locker, Route::find(&store).await))
    };
    let opened = signals.or_end(opened).await?;
    let (locker, route) = match opened {
        ControlFlow::Continue(opened) => opened?,
        ControlFlow::Break(signal) => return Ok(Exit::Signal(signal)),
    };
    let run = Run { directory: own_directory(&id)?, prefix, names: args.names, ttl: args.ttl };
    let has_ttl = locker.capabilities().ttl;
    eprintln!("torturing {} for {} with seed {seed}", locker.store(), humantime::format_duration(args.time));
    let longest_trouble = if has_ttl { 2 * args.ttl } else { FROZEN_ON_FILES };
    let mut parent = Parent::new(&run, &store, &route, seed, longest_trouble);
    let started = Instant::now();
    match signals.or_end(parent.play(args.processes, args.time)).await? {
        ControlFlow::Continue(played) => played.map_err(|e| Failure::os("running the processes", e))?,
        ControlFlow::Break(signal) => {
            drop(parent);
            return Ok(interrupted(signal, signals, &locker, &run).await);
        }
    }
    let (events, errors) = parent.collect().map_err(|e| Failure::os("reading the journals", e))?;
    let bound = (args.time / 2).clamp(LEAST_SLACK, SLACK) + parent.late + 2 * longest_lease(&locker, &run);
    let report = check(&events, &Rules { obtainable_within: Some(bound), undisturbed: true });
    let left = match signals.or_end(clean_up(&locker, &run, bound)).await? {
        ControlFlow::Continue(left) => left,
        ControlFlow::Break(signal) => return Ok(interrupted(signal, signals, &locker, &run).await),
    };
    if let Some(first) = parent.ended.first().filter(|_| report.violations.is_empty() && left.stuck.is_empty()) {
        let _ = fs::remove_dir_all(&run.directory);
        return Err(Failure::new(
            exit::OS,
            format!("{first}; what it noted is not all that happened, so nothing is proved"),
        ));
    }
    let outcome = Outcome {
        store: locker.store(),
        seed,
        processes: args.processes,
        took: started.elapsed(),
        bound,
        troubles: parent.troubles,
        not_cut: match &route {
            Route::Proxied { .. } => None,
            Route::Straight { why } => Some(why.clone()),
        },
        errors,
        left,
        hung: parent.hung,
        report,
        journals: run.directory.clone(),
    };
    let passed = outcome.passed();
    if passed != Some(false) {
        let _ = fs::remove_dir_all(&run.directory);
    }
    outcome.print(args.json)?;
    Ok(Exit::Code(match passed {
        Some(true) => 0,
        Some(false) => exit::NOT_HAD,
        None => exit::UNAVAILABLE,
    }))
}

/// Takes a lock of this run and gives it back: what keeps that from working is told at once, by the store, and not as the workers' errors at
/// the end of the whole time. A store that does not answer is asked for no longer than its timeouts allow.
async fn works(locker: &Locker, name: &str) -> Result<(), Failure> {
    if let TryAcquire::Acquired(guard) = trials::request(locker, name).try_acquire().await? {
        let _: Release = guard.release().await?;
    }
    Ok(())
}

/// After this long without a renewal the store frees a lock; zero where it ends with its process.
fn longest_lease(locker: &Locker, run: &Run) -> Duration {
    if locker.capabilities().ttl { run.ttl } else { locker.timing().lease.unwrap_or_default() }
}

/// Tidies up after a run that a signal has ended, whose processes are dead.
async fn interrupted(signal: i32, signals: &Signals, locker: &Locker, run: &Run) -> Exit {
    signals.unblock();
    let _ = fs::remove_dir_all(&run.directory);
    say("onelock: interrupted; removing what is in the store (interrupt again to leave it)\n");
    locker.settled().await;
    let bound = LEAST_SLACK + 2 * longest_lease(locker, run);
    let left = clean_up(locker, run, bound).await;
    for what in left.stuck.iter().chain(&left.kept) {
        say(&format!("onelock: not removed: {what}\n"));
    }
    Exit::Signal(signal)
}

/// Time since boot, which all processes of a machine share.
fn now() -> Duration {
    SystemClock.now().boot
}
