//! Measures the cost of holding many locks, as far as the stores share it.

use std::{
    fs,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use lock_core::{Guard, Locker};
use test_support::processor_time;
use tokio::time::{Instant as Tick, Interval, interval_at};

use crate::{flavor::Flavor, peers::Process, table::figure};

/// How many locks the processes hold, where the store permits as many.
pub(crate) const LOCKS: [usize; 4] = [1, 100, 1_000, 10_000];
/// A third of it passes between two renewals.
pub(crate) const TTL: Duration = Duration::from_secs(15);
/// Long enough for two renewals of each lock.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);
/// Acquisitions and renewals at a time.
pub(crate) const BATCH: usize = 500;

/// Locks that a program holds without a library.
pub(crate) trait Raw {
    /// The time between two renewals, which is that of onelock.
    const PERIOD: Duration = TTL.checked_div(3).unwrap();

    async fn acquire(&mut self, locks: usize);

    /// Renews each lock, and returns how many were not held.
    async fn renew(&mut self) -> usize;
}

/// A process that holds locks, on a store of its own.
pub(crate) struct Holder<S> {
    how: &'static str,
    locks: usize,
    pub(crate) store: S,
    process: Process,
}

impl<S> Holder<S> {
    /// Starts one for each number of locks, without a library and with onelock. Each has used its
    /// store when this returns. They run all at once: they use little of the processors, and wait
    /// for renewals.
    pub(crate) fn all(
        name: &str,
        counts: [usize; 4],
        store: impl Fn() -> S,
        place: impl Fn(&S) -> String,
    ) -> Vec<Self> {
        let start = |how: &'static str, locks| {
            let store = store();
            let process = Process::own(["hold", name, how, &place(&store), Flavor::CurrentThread.name()]);
            Self { how, locks, store, process }
        };
        let mut all: Vec<_> = ["raw", "onelock"].iter().flat_map(|how| counts.map(|locks| start(how, locks))).collect();
        for holder in &mut all {
            assert_eq!(holder.process.answer(), "ready");
        }
        all
    }

    /// Lets all acquire their locks, and returns the kilobytes that these take in each process.
    /// When it returns, all have begun to measure.
    pub(crate) fn acquire(holders: &mut [Self]) -> Vec<f64> {
        for holder in &mut *holders {
            holder.process.tell(&holder.locks.to_string());
        }
        let kilobytes = holders.iter_mut().map(|holder| holder.process.numbers()[0]).collect();
        // Otherwise the process that was the last to acquire would renew as the window ends.
        std::thread::sleep(TTL / 6);
        for holder in holders {
            holder.process.tell("begin");
        }
        kilobytes
    }

    /// Ends the measurement. Returns the share of a processor that the process used, in percent,
    /// and the number of lost locks.
    pub(crate) fn end(&mut self) -> [f64; 2] {
        self.process.tell("end");
        let [share, lost] = self.process.numbers()[..] else { panic!("a share and a count") };
        [share, lost]
    }

    pub(crate) fn title(&self) -> String {
        format!("{}, {}", self.how, self.locks)
    }

    /// Returns the part of one lock. Few locks show little beside what a process takes anyway.
    pub(crate) fn of_each(&self, kilobytes: f64) -> String {
        if self.locks < 100 { "–".into() } else { figure(kilobytes / self.locks as f64) }
    }
}

/// Says that it is ready, and holds as many locks as the input says. Answers with the kilobytes
/// that they take. It measures from the next line to the one after it, and then answers with its
/// share of a processor, and the number of lost locks.
pub(crate) async fn hold<R: Raw>(how: &str, locker: Locker, mut raw: R) {
    drop(locker.acquire("warm").await.expect("it is free").release().await);
    println!("ready");
    let locks: usize = line().parse().expect("a number");
    let before = resident();
    let guards = match how {
        "raw" => {
            raw.acquire(locks).await;
            Vec::new()
        }
        _ => acquire(&locker, locks).await,
    };
    println!("{}", resident() - before);
    let mut ticks = interval_at(Tick::now() + R::PERIOD, R::PERIOD);
    // A process with onelock has no raw locks, and onelock renews.
    let mut raw = (how == "raw").then_some(raw);
    let mut lost = renew_until_line(&mut ticks, raw.as_mut()).await;
    let (started, used) = (Instant::now(), processor_time());
    lost += renew_until_line(&mut ticks, raw.as_mut()).await;
    let share = 100.0 * (processor_time() - used).as_secs_f64() / started.elapsed().as_secs_f64();
    lost += guards.iter().filter(|guard| guard.check().is_err()).count();
    println!("{share} {lost}");
}

/// Returns how many locks were not held at a renewal.
async fn renew_until_line(ticks: &mut Interval, mut raw: Option<&mut impl Raw>) -> usize {
    let mut end = tokio::task::spawn_blocking(line);
    let mut lost = 0;
    loop {
        tokio::select! {
            _ = &mut end => return lost,
            _ = ticks.tick() => if let Some(raw) = &mut raw { lost += raw.renew().await },
        }
    }
}

/// Waits for a line of the parent.
fn line() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("the parent writes");
    line.trim_end().to_owned()
}

async fn acquire(locker: &Locker, locks: usize) -> Vec<Guard> {
    let mut guards = Vec::with_capacity(locks);
    for start in (0..locks).step_by(BATCH) {
        let batch = (start..locks.min(start + BATCH)).map(|lock| locker.acquire(key(lock)));
        guards.extend(join_all(batch).await.into_iter().map(|guard| guard.expect("it is free")));
    }
    guards
}

pub(crate) fn key(lock: usize) -> String {
    format!("held-{lock}")
}

/// Returns the resident memory in kilobytes.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is there");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
