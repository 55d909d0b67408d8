//! The promises of `dlock run`, on the real program.

mod death;
mod default_store;
mod exit_codes;
mod leases;
mod locking;
mod signals;
mod support;
mod terminal;
mod transparent;
