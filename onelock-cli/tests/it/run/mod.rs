//! Tests of the real program.

#[cfg(all(feature = "redis", feature = "dynamo"))]
mod ages;
mod containers;
mod death;
mod default_store;
mod doctor;
mod etl;
mod exit_codes;
mod few_descriptors;
mod first_process;
pub(crate) mod fixture;
mod flock_manual;
mod hanging;
#[cfg(feature = "dynamo")]
pub(crate) mod init;
mod late;
mod leases;
mod limits;
mod locking;
mod log;
#[cfg(feature = "redis")]
mod migration;
mod modes;
mod nested;
mod night;
mod operators;
#[cfg(all(feature = "redis", feature = "dynamo"))]
mod outage;
#[cfg(all(feature = "redis", feature = "dynamo", feature = "postgres"))]
pub(crate) mod parts;
mod paths;
mod peer;
#[cfg(feature = "postgres")]
mod postgres;
mod process_limit;
mod screens;
#[cfg(feature = "redis")]
mod secrets;
mod shared_directory;
mod signals;
mod stuck;
mod terminal;
#[cfg(feature = "torture")]
mod torture;
mod transparent;
