//! `onelock run --no-fork`: becomes the command, which inherits the lock in a descriptor.

use std::{convert::Infallible, future::pending};

use lock_core::Guard;
use tokio::runtime::Runtime;

use super::{
    acquire::{self, WaitOutcome},
    plan::Plan,
    signals::Signals,
    supervisor::not_started,
};
use crate::{
    exit::{self, Exit, Failure},
    output::{fail, write_on_thread},
    runtime::runtime,
};

/// Acquires the lock and becomes the command; returns only if one of them fails.
pub(super) fn run(plan: &Plan) -> Result<Exit, Failure> {
    write_on_thread();
    let runtime = runtime()?;
    let exit = acquire_and_exec(plan, &runtime);
    // Does not wait for a call on a file system that hangs.
    runtime.shutdown_background();
    exit
}

fn acquire_and_exec(plan: &Plan, runtime: &Runtime) -> Result<Exit, Failure> {
    let waited =
        runtime.block_on(async { acquire::acquire(&plan.wanted, &Signals::all()?, pending::<Infallible>()).await })?;
    let (guard, store) = match waited {
        WaitOutcome::Acquired(guard, store) => (guard, store),
        WaitOutcome::Contended => return Ok(Exit::Code(plan.wanted.conflict_code)),
        WaitOutcome::Signal(signal) => return Ok(Exit::Signal(signal)),
        WaitOutcome::Abandoned(never) => match never {},
    };
    let failure = become_command(plan, &guard, &store);
    if let Err(error) = runtime.block_on(guard.release()) {
        fail(&Failure::from(error).to_string(), None);
    }
    Err(failure)
}

/// Becomes the command; returns only if that fails.
fn become_command(plan: &Plan, guard: &Guard, store: &str) -> Failure {
    // Messages may have taken a second, and this process may have been frozen. A lost lock has no
    // descriptors.
    if let Err(lost) = guard.check() {
        return not_started(lost);
    }
    let locks = match guard.descriptors() {
        Ok(locks) => locks,
        Err(error) => return Failure::os("copying the lock's descriptor", error),
    };
    // One lock of a migration may live in a descriptor, but the other may need renewals.
    if locks.is_empty() || store.starts_with("migrate:") {
        return Failure::new(
            exit::USAGE,
            "--no-fork needs a store whose locks live in a descriptor (files), because no process renews a lease; \
             omit --no-fork",
        );
    }
    // `dup` clears close-on-exec. The command and its descendants inherit these copies, and the
    // lock lasts until the last of them has ended.
    let inherited_locks: nix::Result<Vec<_>> = locks.iter().map(nix::unistd::dup).collect();
    if let Err(error) = inherited_locks {
        return Failure::os("copying the lock's descriptor", error);
    }
    let error = plan.job.exec(guard.token().map(|t| t.get()), None);
    Failure::spawn(&plan.job.argv[0], &error)
}
