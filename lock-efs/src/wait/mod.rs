//! How a waiter learns that a lock is free.

#[cfg(target_os = "linux")]
pub(crate) mod queue;
pub(crate) mod slots;
#[cfg(target_os = "linux")]
pub(crate) mod watch;
