#![doc = include_str!("../README.md")]

mod backend;
mod factory;
mod holders;
mod taken;
mod watch;

pub use backend::MigrationBackend;
pub use factory::MigrationFactory;
