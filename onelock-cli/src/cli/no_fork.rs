//! `onelock run --no-fork`: to become the command, with the lock in a descriptor that it inherits.

use tokio::runtime::Runtime;

use super::{
    exit::{self, Exit, Failure},
    run::{self, Plan},
    signals::Signals,
    waiting::{self, Waited},
};

/// Gets the lock and becomes the command; returns when one of the two fails.
pub(super) fn run(plan: &Plan) -> Result<Exit, Failure> {
    let runtime = run::runtime()?;
    let exit = hold(plan, &runtime);
    // A call on a file system that hangs is not waited for.
    runtime.shutdown_background();
    exit
}

fn hold(plan: &Plan, runtime: &Runtime) -> Result<Exit, Failure> {
    let waited = runtime.block_on(async { waiting::acquire(plan, &Signals::all()?).await })?;
    let (guard, store) = match waited {
        Waited::Acquired(guard, store) => (guard, store),
        Waited::Held => return Ok(Exit::Code(plan.conflict_code)),
        Waited::Signal(signal) => return Ok(Exit::Signal(signal)),
    };
    // One of a chain's locks may live in a descriptor, and the other need renewals all the same.
    let failure = match guard.descriptor().filter(|_| !store.starts_with("chain:")) {
        None => Failure::new(
            exit::USAGE,
            "--no-fork needs a store whose locks live in a descriptor (files): nobody would renew the lease of this one; \
             leave --no-fork out",
        ),
        Some(lock) => {
            // `dup` clears close-on-exec: this copy goes into the command, and keeps the lock until it and all heirs are gone.
            let heirloom = nix::unistd::dup(&lock).map_err(|e| Failure::os("copying the lock's descriptor", e))?;
            let error = plan.job.exec(guard.token().map(|t| t.get()), None);
            drop(heirloom);
            Failure::spawn(&plan.job.argv[0], error)
        }
    };
    if let Err(error) = runtime.block_on(guard.release()) {
        waiting::say(&format!("onelock: {}\n", Failure::from(error)));
    }
    Err(failure)
}
