//! The second process of the doctor: tries a lock once.

use std::{
    env,
    process::{Command, Stdio},
    sync::Arc,
};

use lock_core::{FencingToken, TryAcquire};
use nix::sys::{prctl, signal::Signal};
use tokio::sync::Mutex;

use crate::{
    args::{SecondProcessArgs, StoreArgs},
    exit::{self, Exit, Failure},
    output::print,
    probes,
    runtime::{on_thread, runtime},
    store::StoreLocation,
};

/// Runs the hidden subcommand. If the lock is free, it acquires and releases it, prints the token,
/// and exits with 0. If the lock is held, it exits with 1.
pub(crate) fn run_second_process(args: SecondProcessArgs) -> Result<Exit, Failure> {
    // A signal may end the doctor while it waits for this process.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| Failure::os("setting the signal for the parent's death", e))?;
    let store = StoreLocation::choose(&StoreArgs::default())?;
    runtime()?.block_on(async {
        let locker = store.open().await?;
        match probes::request(&locker, args.name.as_str()).try_acquire().await? {
            TryAcquire::Contended(_) => Ok(Exit::Code(exit::NOT_ACQUIRED)),
            TryAcquire::Acquired(guard) => {
                print(&guard.token().map_or_else(String::new, |token| token.to_string()))?;
                let _ = guard.release().await?;
                Ok(Exit::Code(0))
            }
        }
    })
}

/// The result of the second process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SecondProcessOutcome {
    Contended,
    Acquired(Option<FencingToken>),
}

/// Starts second processes, one after the other.
#[derive(Debug)]
pub(super) struct SecondProcesses<'a> {
    store: &'a StoreLocation,
    /// Locked while a process runs, even if the call that started it was cancelled.
    running: Arc<Mutex<()>>,
}

impl<'a> SecondProcesses<'a> {
    pub(super) fn new(store: &'a StoreLocation) -> Self {
        Self { store, running: Arc::default() }
    }

    /// Lets a second process try the lock `name`, while this process keeps renewing its locks.
    pub(super) async fn try_lock(&self, name: &str) -> Result<SecondProcessOutcome, Failure> {
        let program = env::current_exe().map_err(|e| Failure::os("finding the path of this program", e))?;
        let mut command = Command::new(program);
        command.args(["doctor-second-process", "--", name]).stdin(Stdio::null());
        self.store.pass_to(&mut command);
        let running = Arc::clone(&self.running).lock_owned().await;
        let ended = on_thread(move || {
            let output = command.output();
            drop(running);
            output
        });
        let output = ended.await.and_then(|output| output);
        let output = output.map_err(|e| Failure::start("the second process", &e))?;
        match output.status.code() {
            Some(0) => {
                let token = String::from_utf8_lossy(&output.stdout).trim().parse().ok().and_then(FencingToken::new);
                Ok(SecondProcessOutcome::Acquired(token))
            }
            Some(code) if code == i32::from(exit::NOT_ACQUIRED) => Ok(SecondProcessOutcome::Contended),
            _ => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(Failure::new(exit::INTERNAL, format!("the second process failed: {said}")))
            }
        }
    }

    /// Waits until no second process runs.
    pub(super) async fn wait_idle(&self) {
        drop(self.running.lock().await);
    }
}
