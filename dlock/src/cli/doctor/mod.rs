//! `dlock doctor`: is this store, as it is set up, fit for locks, and what should be changed?
//!
//! Locks are tried on names of the run's own ([`trial`]), by two clients of this process and by another process ([`rival`]); then the store's
//! backend says what it knows of the store (`Locker::examine`). With `--peer` two hosts meet at a lock ([`peer`]).

mod meeting;
mod peer;
mod report;
mod rival;
mod trial;

use std::time::Duration;

use clap::Args;
use lock_core::{LeaseId, LockName};

use super::{
    exit::{self, Exit, Failure},
    run,
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

/// What `doctor` tells its other process; the store comes in `$DLOCK_URL`.
#[derive(Debug, Args)]
pub(super) struct RivalArgs {
    #[arg(value_parser = super::args::name)]
    name: LockName,
}

/// `dlock doctor`
pub(super) fn doctor(args: DoctorArgs) -> Result<Exit, Failure> {
    let store = Store::choose(&args.store)?;
    let id = LeaseId::random().to_string();
    let diagnosis = run::runtime()?.block_on(examine(&store, &id, args.peer.then_some(args.within)))?;
    remove_traces(&diagnosis.store, &id);
    diagnosis.print(args.json)?;
    Ok(Exit::Code(match (diagnosis.failed, diagnosis.is_fit()) {
        (Some(code), _) => code,
        (None, true) => 0,
        (None, false) => exit::NOT_HAD,
    }))
}

async fn examine(store: &Store, id: &str, peer: Option<Duration>) -> Result<Diagnosis, Failure> {
    let registry = dlock::registry();
    let (ours, other) = (store.open_with(&registry).await?, store.open_with(&registry).await?);
    let trial = Trial::new(store, &ours, &other, format!("dlock-doctor/{id}/"));
    let (mut findings, failed) = trial.all().await;
    findings.extend(ours.examine().await);
    if failed.is_none() && !findings.iter().any(|finding| finding.subject.ends_with("clock")) {
        findings.extend(trial.clock().await);
    }
    if let Some(within) = peer.filter(|_| failed.is_none()) {
        findings.push(peer::meet(&ours, id, within).await);
    }
    if failed.is_none() {
        trial.clean_up().await;
    }
    Ok(Diagnosis { store: ours.store(), capabilities: ours.capabilities(), timing: ours.timing(), findings, failed })
}
