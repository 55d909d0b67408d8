//! The thread that renews the locks of a blocking locker.

use std::{
    mem,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

use crate::{Error, ErrorKind, Locker, backend::Process};

/// How long the thread waits for releases of dropped guards after the last handle is dropped.
///
/// A store that does not answer must not keep a thread alive for longer.
const LAST_RELEASES: Duration = Duration::from_secs(10);

/// The thread that drives connections and renewals. It ends when the last locker and guard are
/// dropped.
pub(super) struct Renewals {
    runtime: Handle,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    pub(super) process: Process,
    pub(super) locker: Locker,
    /// The thread of a child process, which has none of the threads of its parent.
    in_child: OnceLock<Arc<Self>>,
}

impl Renewals {
    /// Starts the thread and opens the store on its runtime, to which connections belong.
    pub(super) fn start(open: impl Future<Output = Result<Locker, Error>>) -> Result<Self, Error> {
        refuse_async()?;
        let failed = |error| Error::new(ErrorKind::Other, "the renewal thread could not be started").with_source(error);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (handle, (stop, stopped)) = (runtime.handle().clone(), oneshot::channel());
        let (tell, told) = oneshot::channel::<Locker>();
        let work = move || {
            runtime.block_on(async {
                let Ok(locker) = told.await else { return };
                // Always an error, because the sender is only dropped.
                let _ = stopped.await;
                let _ = tokio::time::timeout(LAST_RELEASES, locker.wait_idle()).await;
            });
        };
        thread::Builder::new().name("onelock-renewal".into()).spawn(work).map_err(failed)?;
        let locker = handle.block_on(open)?;
        // The thread is waiting for the locker, so the receiver exists.
        let _ = tell.send(locker.clone());
        let process = Process::current();
        Ok(Self { runtime: handle, stop: Some(stop), process, locker, in_child: OnceLock::new() })
    }

    /// Returns the thread of this process.
    pub(super) fn here(self: &Arc<Self>) -> Result<Arc<Self>, Error> {
        if self.process.is_current() {
            return Ok(Arc::clone(self));
        }
        let child = match self.in_child.get() {
            Some(child) => child,
            None => {
                let locker = self.locker.clone();
                let child = Self::start(async { Ok(locker) })?;
                // Set, and not initialised in place: a fork meanwhile would leave it locked.
                let _ = self.in_child.set(Arc::new(child));
                self.in_child.get().expect("was just set")
            }
        };
        child.here()
    }

    pub(super) fn block_on<T>(self: &Arc<Self>, future: impl Future<Output = T>) -> Result<T, Error> {
        refuse_async()?;
        Ok(self.here()?.runtime.block_on(future))
    }
}

impl Drop for Renewals {
    fn drop(&mut self) {
        if !self.process.is_current() {
            // Dropping it would wake the thread of the parent.
            mem::forget(self.stop.take());
        }
    }
}

fn refuse_async() -> Result<(), Error> {
    if Handle::try_current().is_ok() {
        let message = "a blocking call from async code would block the runtime; \
                       use the async Locker there, or spawn_blocking";
        return Err(Error::new(ErrorKind::Config, message));
    }
    Ok(())
}
