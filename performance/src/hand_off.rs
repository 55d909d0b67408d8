//! Measures the time from a release until a waiting process has the lock.

use std::{io::BufRead as _, time::Duration};

use test_support::monotonic_nanos;
use tokio::runtime::Runtime;

use crate::peers::Process;

pub(crate) const ROUNDS: usize = 150;
/// Sleeps until the other process waits.
const UNTIL_IT_WAITS: Duration = Duration::from_millis(15);

/// One lock of this process.
pub(crate) trait Lock {
    type Held;

    async fn acquire(&mut self) -> Self::Held;

    async fn release(&mut self, held: Self::Held);
}

/// The waiting process. Each line on its input begins a wait, and the answer is the time at which
/// the process acquired the lock.
pub(crate) fn wait(runtime: &Runtime, mut lock: impl Lock) {
    for line in std::io::stdin().lock().lines() {
        line.expect("the parent writes");
        runtime.block_on(async {
            let held = lock.acquire().await;
            println!("{}", monotonic_nanos());
            lock.release(held).await;
        });
    }
}

/// The holder of a lock, and the process that waits for it.
pub(crate) struct Pair<L> {
    holder: Holder<L>,
    waiter: Process,
}

enum Holder<L> {
    Own(L),
    Peer(Process),
}

impl<L: Lock> Pair<L> {
    pub(crate) fn new(lock: L, waiter: Process) -> Self {
        Self { holder: Holder::Own(lock), waiter }
    }

    pub(crate) fn of_peers(start: impl Fn() -> Process) -> Self {
        Self { holder: Holder::Peer(start()), waiter: start() }
    }

    /// Hands the lock off once, and returns the microseconds.
    pub(crate) fn once(&mut self, runtime: &Runtime) -> f64 {
        let released = match &mut self.holder {
            Holder::Own(lock) => {
                let held = runtime.block_on(lock.acquire());
                self.waiter.tell("wait");
                pause(runtime);
                runtime.block_on(async {
                    let before = monotonic_nanos();
                    lock.release(held).await;
                    before
                })
            }
            Holder::Peer(process) => {
                assert_eq!(process.ask("hold"), "held");
                self.waiter.tell("wait");
                pause(runtime);
                process.tell("release");
                process.nanos()
            }
        };
        (self.waiter.nanos() - released) as f64 / 1e3
    }
}

/// Waits as long as for a waiter. Renewals of this process go on meanwhile.
pub(crate) fn pause(runtime: &Runtime) {
    runtime.block_on(async { tokio::time::sleep(UNTIL_IT_WAITS).await });
}
