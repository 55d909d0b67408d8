//! `onelock doctor`: checks whether a store, as configured, is fit for locks, and says what to
//! change.
//!
//! The probes ([`probes`]) lock names that only this run uses, in two clients of this process and
//! in a second process ([`second_process`]). Then the backend reports on the store
//! (`LockAdmin::diagnose`). With `--peer` two hosts contend for one lock ([`peer`]).

mod peer;
mod probes;
mod report;
mod second_process;
mod two_host_check;

use std::{ops::ControlFlow, time::Duration};

use lock_core::{Locker, backend::LeaseId};
use tokio::time::timeout;

pub(crate) use self::second_process::run_second_process;
use self::{probes::Probes, report::Diagnosis};
use crate::{
    args::DoctorArgs,
    exit::{self, Exit, Failure},
    live::LiveLine,
    run::signals::Signals,
    runtime::runtime,
    store::{StoreLocation, remove_lock_files},
};

/// How long the cleanup may take after a signal.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs `onelock doctor`.
pub(crate) fn doctor(args: DoctorArgs) -> Result<Exit, Failure> {
    let examined = match StoreLocation::choose_for_probes(&args.store) {
        Ok(store) => examine(&store, args.peer.then_some(args.within)),
        Err(failure) => Ok(ControlFlow::Continue(Diagnosis::not_opened(None, &failure))),
    };
    let diagnosis = match examined? {
        ControlFlow::Continue(diagnosis) => diagnosis,
        ControlFlow::Break(signal) => return Ok(Exit::Signal(signal)),
    };
    diagnosis.print(args.json)?;
    Ok(Exit::Code(match (diagnosis.failed, diagnosis.is_fit()) {
        (Some(code), _) => code,
        (None, true) => 0,
        (None, false) => exit::NOT_ACQUIRED,
    }))
}

fn examine(store: &StoreLocation, peer: Option<Duration>) -> Result<ControlFlow<i32, Diagnosis>, Failure> {
    let runtime = runtime()?;
    let progress = LiveLine::new();
    let examined = runtime.block_on(examine_store(store, peer, &progress));
    progress.clear();
    // Does not wait for a call on a file system that hangs.
    runtime.shutdown_background();
    examined
}

/// Examines the store, and removes the run's locks, even if a signal ends the run.
async fn examine_store(
    store: &StoreLocation,
    peer: Option<Duration>,
    progress: &LiveLine,
) -> Result<ControlFlow<i32, Diagnosis>, Failure> {
    let signals = Signals::block_termination()?;
    let id = LeaseId::random().to_string();
    let registry = onelock::registry();
    let two = async { Ok::<_, Failure>((store.open_with(&registry).await?, store.open_with(&registry).await?)) };
    progress.set("onelock doctor: opening the store");
    let (ours, other) = match signals.race(two).await? {
        ControlFlow::Continue(Ok(two)) => two,
        ControlFlow::Continue(Err(failure)) => {
            return Ok(ControlFlow::Continue(Diagnosis::not_opened(Some(store.shown()), &failure)));
        }
        ControlFlow::Break(signal) => return Ok(ControlFlow::Break(signal)),
    };
    let probes = Probes::new(store, [&ours, &other], format!("onelock-doctor/{id}/"), progress);
    let diagnosis = signals.race(diagnose(&probes, &ours, &id, peer)).await?;
    if diagnosis.is_break() {
        signals.unblock();
        let tidy = async {
            ours.wait_idle().await;
            other.wait_idle().await;
            probes.clean_up().await;
        };
        let _ = timeout(CLEANUP_TIMEOUT, tidy).await;
    }
    remove_lock_files(&ours.store(), &id);
    Ok(diagnosis)
}

async fn diagnose(probes: &Probes<'_>, ours: &Locker, id: &str, peer: Option<Duration>) -> Diagnosis {
    let (mut findings, failed) = probes.all().await;
    probes.begin("what the store tells about itself (6 of 6)");
    findings.extend(ours.admin().diagnose().await);
    if failed.is_none() && !findings.iter().any(|finding| finding.subject.ends_with("clock")) {
        findings.extend(probes.clock().await);
    }
    // A lock may be lost because the other host has this host's identity.
    if let Some(within) = peer.filter(|_| matches!(failed, None | Some(exit::LOST))) {
        probes.begin("whether two hosts exclude each other");
        let found = peer::check_two_hosts(ours, id, within, &findings).await;
        findings.push(found);
    }
    if failed.is_none() {
        probes.clean_up().await;
    }
    let opened = Some((ours.capabilities(), ours.timing()));
    Diagnosis { store: Some(ours.store()), opened, findings, failed }
}
