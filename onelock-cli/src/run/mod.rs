//! `onelock run`: two processes between the caller and the command.
//!
//! The caller starts the supervisor ([`supervisor`]), which acquires, renews and releases the lock.
//! The watchdog ([`watchdog`]) is its child and the parent of the command: it ensures that no
//! process outlives the lock. They communicate over a socket ([`protocol`]). With `--no-fork` there
//! is one process, which becomes the command ([`exec`]).

pub(crate) mod acquire;
pub(crate) mod alarm;
pub(crate) mod child;
mod exec;
pub(crate) mod inherited;
mod metrics;
mod orphans;
mod outer_locks;
pub(crate) mod plan;
pub(crate) mod process_tree;
pub(crate) mod progress;
pub(crate) mod protocol;
pub(crate) mod signals;
mod standstill;
mod supervisor;
mod watchdog;

use self::{inherited::InheritedState, plan::Plan, protocol::Channel};
use crate::{
    args::RunArgs,
    exit::{Exit, Failure},
    sys,
};

/// Runs the command under the lock; does not return in the watchdog's process.
pub(crate) fn run(args: RunArgs, inherited: InheritedState) -> Result<Exit, Failure> {
    let no_fork = args.no_fork;
    let plan = Plan::new(args, inherited)?;
    if no_fork {
        return exec::run(&plan);
    }
    process_tree::check_proc("--no-fork with locks in files")?;
    let (to_watchdog, to_supervisor) = Channel::pair().map_err(|e| Failure::os("creating a socket pair", e))?;
    // Before any thread starts: a fork of a process with threads may call only async-signal-safe
    // functions.
    match sys::fork().map_err(|e| Failure::start("the watchdog process", &e))? {
        None => {
            drop(to_watchdog);
            watchdog::main(to_supervisor, &plan.job)
        }
        Some(pid) => {
            drop(to_supervisor);
            supervisor::main(&plan, to_watchdog, pid)
        }
    }
}
