//! Servers, a faulty network and a simulation, which the tests and benchmarks of all crates share.
//!
//! Without its default feature `servers`, this crate contains only the faulty network on loopback,
//! [`Proxy`], which `onelock torture` uses outside of tests. The feature adds real servers, a proxy
//! that knows DynamoDB's protocol (`wire`), clocks, and the simulation (`sim`).
//!
//! If a server cannot be started, the test fails, and names the command that installs the server.
//! It is never skipped.

#[cfg(feature = "servers")]
pub mod callgrind;
#[cfg(feature = "servers")]
mod capacity;
#[cfg(feature = "servers")]
mod clocks;
#[cfg(feature = "servers")]
mod daemon;
#[cfg(feature = "servers")]
pub mod dynamodb;
#[cfg(feature = "servers")]
pub mod figures;
#[cfg(feature = "servers")]
pub mod fork;
#[cfg(feature = "servers")]
pub mod hand_over;
#[cfg(feature = "servers")]
pub mod http;
#[cfg(feature = "servers")]
pub mod http_proxy;
#[cfg(feature = "servers")]
pub mod lambda;
mod loopback;
#[cfg(feature = "servers")]
pub mod lost_messages;
#[cfg(feature = "servers")]
pub mod moto;
#[cfg(feature = "servers")]
pub mod nfs;
#[cfg(feature = "servers")]
pub mod object_stores;
#[cfg(feature = "servers")]
pub mod pgbouncer;
#[cfg(feature = "servers")]
pub mod postgres;
#[cfg(feature = "servers")]
pub mod printed_settings;
#[cfg(feature = "servers")]
pub mod process;
#[cfg(feature = "servers")]
pub mod python;
#[cfg(feature = "servers")]
pub mod redis;
#[cfg(feature = "servers")]
pub mod requests;
#[cfg(feature = "servers")]
mod scratch;
#[cfg(feature = "servers")]
pub mod sentinel;
#[cfg(feature = "servers")]
mod shared_server;
#[cfg(feature = "servers")]
pub mod sim;
#[cfg(feature = "servers")]
pub mod tls;
#[cfg(feature = "servers")]
pub mod undriven;
#[cfg(feature = "servers")]
mod wait;
#[cfg(feature = "servers")]
pub mod wire;

#[cfg(feature = "servers")]
pub use clocks::{monotonic_nanos, processor_time, set_clock_off};
#[cfg(feature = "servers")]
pub use daemon::{Daemon, free_port};
pub use loopback::{Direction, Proxy};
#[cfg(feature = "servers")]
pub use scratch::{Scratch, target_directory};
#[cfg(feature = "servers")]
pub use wait::{until, wait_for};
