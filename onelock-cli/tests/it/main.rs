//! The tests of the command, in one binary.

#[cfg(all(feature = "redis", feature = "dynamo", feature = "postgres", feature = "object", feature = "torture"))]
mod docs;
mod hold;
mod nfs;
mod run;
mod schedules;
