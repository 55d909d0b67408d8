//! `onelock hold`: holds locks for the process that started it, its client.
//!
//! A shell gets one lock ([`shell`]). A program gets any number of them, by lines of JSON
//! ([`json`]). In both forms the locks end with the client ([`client`]).

mod client;
mod descriptors;
mod json;
mod shell;
mod watchdog;

use std::io::IsTerminal as _;

use crate::{
    args::{HoldArgs, OnLoss},
    exit::{Exit, Failure},
    run::inherited::InheritedState,
};

/// Holds a lock for a shell, or serves a program.
pub(crate) fn hold(args: HoldArgs, inherited: InheritedState) -> Result<Exit, Failure> {
    match args.name {
        Some(name) => {
            // On a terminal the client is the user's own shell, which must survive a loss.
            let default = if std::io::stdin().is_terminal() { OnLoss::Tell } else { OnLoss::Term };
            shell::run(name, args.lock, args.on_loss.unwrap_or(default), inherited)
        }
        None => json::run(args.lock, args.on_loss.unwrap_or(OnLoss::Tell), args.heartbeat),
    }
}
