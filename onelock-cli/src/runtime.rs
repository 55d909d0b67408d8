//! The runtime of every command, and threads that the system may refuse.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
};

use crate::exit::Failure;

/// How long the reserved thread may be idle: longer than any command runs.
const KEEP_THREAD: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Builds a runtime of one thread, because the commands mostly wait.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    let build = || Builder::new_current_thread().enable_all().thread_keep_alive(KEEP_THREAD).build();
    // The runtime panics if the system refuses the sockets that it wants for signals.
    let built = catch_unwind(build).unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::EMFILE)));
    built.map_err(|e| Failure::os("starting a runtime", e))
}

/// Reserves a thread of the runtime for blocking calls, such as the name resolution of a library.
///
/// The runtime panics if a call needs the first such thread and the system refuses it. Later calls
/// share the reserved thread in that case, so a reconnection under a full process limit works.
pub(crate) fn reserve_thread() -> Result<(), Failure> {
    let started = catch_unwind(|| drop(tokio::task::spawn_blocking(|| ())));
    started.map_err(|_| {
        let refused = io::Error::from_raw_os_error(libc::EAGAIN);
        Failure::start("a thread for the connection to the store", &refused)
    })
}

/// Whether `message` is a panic that [`runtime`] or [`reserve_thread`] catches and reports.
pub(crate) fn is_refusal(message: &str) -> bool {
    message.starts_with("OS can't spawn worker thread") || message.starts_with("failed to create UnixStream")
}

/// Runs `work` on its own thread, while the runtime goes on.
///
/// # Errors
/// If the system refuses the thread; then `work` did not run.
pub(crate) async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (answer, answered) = oneshot::channel();
    thread::Builder::new().name("onelock-call".into()).spawn(move || {
        // A panic was already reported; it ends the wait below.
        let _ = catch_unwind(AssertUnwindSafe(work)).map(|done| answer.send(done));
    })?;
    answered.await.map_err(|_| io::Error::other("the call panicked"))
}
