//! How a waiter learns that a lock is free.

#[cfg(target_os = "linux")]
pub(crate) mod queue;
pub(crate) mod slots;
#[cfg(target_os = "linux")]
pub(crate) mod watch;

/// The stack of a thread that waits for a lock or closes a watch.
///
/// Such a thread makes one system call and a few shallow ones of ours, and there may be one for
/// each lock that is waited for, so the usual 2 MiB would be wasted.
#[cfg(target_os = "linux")]
const STACK_BYTES: usize = 64 * 1024;
