//! `onelock doctor`: is this store, as it is set up, fit for locks, and what should be changed?
//!
//! Locks are tried on names of the run's own ([`trial`]), by two clients of this process and by another process ([`rival`]); then the store's
//! backend says what it knows of the store (`Locker::examine`). With `--peer` two hosts meet at a lock ([`peer`]).

mod meeting;
mod peer;
mod report;
mod rival;
mod trial;

use std::{ops::ControlFlow, time::Duration};

use clap::Args;
use lock_core::{LeaseId, LockName, Locker};
use tokio::time::timeout;

use super::{
    exit::{self, Exit, Failure},
    run,
    signals::Signals,
    store::{Store, StoreArgs, remove_traces},
};
use report::Diagnosis;
pub(super) use rival::rival;
use trial::Trial;

/// Which store, and how to say it.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    store: StoreArgs,

    /// One JSON object, for programs.
    #[arg(long)]
    json: bool,

    /// Also meet another host that runs the same command on the same store at the same time, and see whether the two exclude each other.
    #[arg(long)]
    peer: bool,

    /// How long to wait for it.
    #[arg(long, requires = "peer", value_name = "DURATION", default_value = "2m", value_parser = super::args::with_unit)]
    within: Duration,
}

/// What `doctor` tells its other process; the store comes in `$ONELOCK_URL`.
#[derive(Debug, Args)]
pub(super) struct RivalArgs {
    #[arg(value_parser = super::args::name)]
    name: LockName,
}

/// How long tidying up may take after a signal.
const TIDYING: Duration = Duration::from_secs(10);

/// `onelock doctor`
pub(super) fn doctor(args: DoctorArgs) -> Result<Exit, Failure> {
    let store = Store::choose(&args.store)?;
    let runtime = run::runtime()?;
    let examined = runtime.block_on(examined(&store, args.peer.then_some(args.within)));
    // A call on a file system that hangs is not waited for.
    runtime.shutdown_background();
    let diagnosis = match examined? {
        ControlFlow::Continue(diagnosis) => diagnosis,
        ControlFlow::Break(signal) => return Ok(Exit::Signal(signal)),
    };
    diagnosis.print(args.json)?;
    Ok(Exit::Code(match (diagnosis.failed, diagnosis.is_fit()) {
        (Some(code), _) => code,
        (None, true) => 0,
        (None, false) => exit::NOT_HAD,
    }))
}

/// Leaves nothing behind, also when a signal ends it.
async fn examined(store: &Store, peer: Option<Duration>) -> Result<ControlFlow<i32, Diagnosis>, Failure> {
    let signals = Signals::block_ending()?;
    let id = LeaseId::random().to_string();
    let registry = onelock::registry();
    let two = async { Ok::<_, Failure>((store.open_with(&registry).await?, store.open_with(&registry).await?)) };
    let (ours, other) = match signals.or_end(two).await? {
        ControlFlow::Continue(two) => two?,
        ControlFlow::Break(signal) => return Ok(ControlFlow::Break(signal)),
    };
    let trial = Trial::new(store, &ours, &other, format!("onelock-doctor/{id}/"));
    let diagnosis = signals.or_end(examine(&trial, &ours, &id, peer)).await?;
    if diagnosis.is_break() {
        signals.unblock();
        let tidy = async {
            ours.settled().await;
            other.settled().await;
            trial.clean_up().await;
        };
        let _ = timeout(TIDYING, tidy).await;
    }
    remove_traces(&ours.store(), &id);
    Ok(diagnosis)
}

async fn examine(trial: &Trial<'_>, ours: &Locker, id: &str, peer: Option<Duration>) -> Diagnosis {
    let (mut findings, failed) = trial.all().await;
    findings.extend(ours.examine().await);
    if failed.is_none() && !findings.iter().any(|finding| finding.subject.ends_with("clock")) {
        findings.extend(trial.clock().await);
    }
    if let Some(within) = peer.filter(|_| failed.is_none()) {
        findings.push(peer::meet(ours, id, within).await);
    }
    if failed.is_none() {
        trial.clean_up().await;
    }
    Diagnosis { store: ours.store(), capabilities: ours.capabilities(), timing: ours.timing(), findings, failed }
}
