//! Starts real servers and faulty networks, for the tests of all backends.
//!
//! A server that cannot be started is a failure of the test, with the command that installs it, never a skipped test.

mod daemon;
mod proxy;
pub mod redis;
pub mod sentinel;
pub mod tls;

pub use daemon::{Daemon, free_port};
pub use proxy::{Direction, Proxy};
