//! Wakes waiters when a lock is released.

#[cfg(target_os = "linux")]
pub(crate) mod queue;
pub(crate) mod slots;
#[cfg(target_os = "linux")]
pub(crate) mod watch;

/// The stack size of a thread that waits for a lock or closes a watch.
///
/// Such a thread makes one system call and a few shallow function calls. Each waited-for lock may
/// have such a thread, so the usual 2 MiB would be wasted.
#[cfg(target_os = "linux")]
const STACK_BYTES: usize = 64 * 1024;
