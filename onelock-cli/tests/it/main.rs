//! The tests of the command, in one binary.

mod compare;
#[cfg(all(feature = "redis", feature = "dynamo", feature = "postgres", feature = "object", feature = "torture"))]
mod costs;
#[cfg(all(feature = "redis", feature = "dynamo", feature = "postgres", feature = "object", feature = "torture"))]
mod docs;
mod help;
mod hold;
mod monitoring;
mod nfs;
mod packages;
mod platform;
mod run;
mod schedules;
