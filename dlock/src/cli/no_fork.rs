//! `dlock run --no-fork`: to become the command, with the lock in a descriptor that it inherits.

use super::{
    exit::{self, Exit, Failure},
    run::{self, Plan},
    signals::Signals,
    waiting::{self, Waited},
};

/// Gets the lock and becomes the command; returns when one of the two fails.
pub(super) fn run(plan: &Plan) -> Result<Exit, Failure> {
    let runtime = run::runtime()?;
    let (waited, is_chain) = runtime.block_on(async {
        let signals = Signals::new().map_err(|e| Failure::os("reading signals", e))?;
        let locker = plan.store.open().await?;
        let waited = waiting::acquire(plan, &locker, &signals).await?;
        Ok::<_, Failure>((waited, locker.store().starts_with("chain:")))
    })?;
    let guard = match waited {
        Waited::Acquired(guard) => guard,
        Waited::Held => return Ok(Exit::Code(plan.conflict_code)),
        Waited::Signal(signal) => return Ok(Exit::Signal(signal)),
    };
    // One of a chain's locks may live in a descriptor, and the other need renewals all the same.
    let failure = match guard.descriptor().filter(|_| !is_chain) {
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
        waiting::say(&format!("dlock: {}\n", Failure::from(error)));
    }
    Err(failure)
}
