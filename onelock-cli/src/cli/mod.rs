//! The command line: `onelock run`, what operators ask ([`operators`]), and the test of a store ([`torture`]).
//!
//! With `run`, two processes of ours stand between whoever started us and the command. The front ([`front`]) is the process that was started:
//! it gets, renews and releases the lock. The watchdog ([`watchdog`]) is its child and the command's parent: it makes sure that
//! nothing outlives the lock. They talk over a socket ([`protocol`]).

mod alarm;
mod args;
mod child;
mod doctor;
mod exit;
mod front;
mod inherited;
mod init;
mod no_fork;
mod operators;
mod protocol;
mod run;
mod signals;
mod store;
mod torture;
mod tree;
mod trials;
mod waiting;
mod watchdog;

use std::ffi::OsString;

use clap::Parser;

use self::{
    args::{Cli, Verb},
    exit::{Exit, Failure},
    inherited::Inherited,
};
use crate::sys;

/// The whole program; returns the exit code.
#[cfg_attr(test, allow(dead_code, reason = "tests have a main of their own"))]
pub(crate) fn main(arguments: Vec<OsString>) -> i32 {
    let mask = |e| Failure::os("reading the signal mask", e);
    let exit = Inherited::capture().map_err(mask).and_then(|inherited| match Cli::try_parse_from(arguments) {
        Ok(cli) => match cli.command {
            Verb::Run(args) => inherited.block_signals().map_err(mask).and_then(|()| run::run(args, inherited)),
            Verb::Status(args) => operators::status(args),
            Verb::List(args) => operators::list(args),
            Verb::Break(args) => operators::break_lock(args),
            Verb::Init(args) => init::init(args),
            Verb::Sweep(args) => operators::sweep(args),
            Verb::Doctor(args) => doctor::doctor(args),
            Verb::DoctorRival(args) => doctor::rival(args),
            Verb::Torture(args) => torture::torture(args),
            Verb::TortureWorker(args) => torture::work(args),
        },
        Err(error) => Ok(Exit::Code(explain(&error))),
    });
    match exit {
        Ok(Exit::Code(code)) => i32::from(code),
        Ok(Exit::Signal(signal)) => {
            sys::act_on(signal);
            // It was ignored after all.
            128 + signal
        }
        Err(failure) => {
            waiting::say(&format!("onelock: {failure}\n"));
            i32::from(failure.code)
        }
    }
}

/// Shows the help that was asked for, or what is wrong with the command line.
fn explain(error: &clap::Error) -> u8 {
    let _ = error.print();
    if error.use_stderr() { exit::USAGE } else { 0 }
}
