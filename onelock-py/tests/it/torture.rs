//! Python processes and threads in Rust contend for one lock, while processes are killed and
//! stopped. The checker of histories finds no two holders.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use lock_history::{Checks, Event, EventKind, Mode, check};
use onelock::{
    Guard, Locker, TryAcquire,
    clock::{Clock as _, ClockReading, SystemClock},
};
use serde_json::Value;
use test_support::{process::Process, python::python, redis::RedisServer};

use crate::{CRATE, Package};

const NAME: &str = "torture";
const PYTHON: usize = 4;
const RUST: usize = 2;

/// How long the workers contend. `ONELOCK_TORTURE_SECONDS` sets another time.
fn duration() -> Duration {
    let seconds = std::env::var("ONELOCK_TORTURE_SECONDS").ok().map(|text| text.parse().expect("whole seconds"));
    Duration::from_secs(seconds.unwrap_or(12))
}

/// Returns the clock of the history, which is that of the Python workers.
fn now() -> Duration {
    SystemClock.now().boot
}

fn event(at: Duration, worker: u64, kind: EventKind) -> Event {
    Event { at, worker, name: NAME.into(), kind }
}

/// A worker in Python, with the number of its process in the history.
struct Worker {
    process: Process,
    number: u64,
    is_stopped: bool,
}

impl Worker {
    fn start(package: &Package, url: &str, number: u64) -> Self {
        let mut command = std::process::Command::new(python());
        command.args([&format!("{CRATE}/tests/torture_worker.py"), url, NAME, &number.to_string()]);
        package.add_to(&mut command);
        Self { process: Process::start(&mut command), number, is_stopped: false }
    }

    /// Kills it. Returns what it printed and its end, as events.
    fn kill(mut self) -> Vec<Event> {
        let at = now();
        self.process.kill();
        self.process.ends();
        let mut events: Vec<_> = self.process.lines().iter().map(|line| self.event(line)).collect();
        // What it told before its end was before its end.
        let at = events.last().map_or(at, |last| at.max(last.at));
        events.push(event(at, self.number, EventKind::Died));
        events
    }

    fn event(&self, line: &str) -> Event {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no event: {line}"));
        let until = || line["until"].as_u64().map(Duration::from_nanos);
        let kind = match line["kind"].as_str().expect("a kind") {
            "attempt" => EventKind::Attempt { owner: None },
            "gave_up" => EventKind::GaveUp,
            "granted" => EventKind::Granted { token: line["token"].as_u64(), until: until(), mode: Mode::Exclusive },
            "valid" => EventKind::Valid { until: until() },
            "lost" => EventKind::Lost { told: true },
            "released" => EventKind::Released,
            other => panic!("there is no kind {other:?}"),
        };
        event(Duration::from_nanos(line["at"].as_u64().expect("a time")), self.number, kind)
    }
}

/// A worker in Rust, in a thread of this process.
async fn contend(url: &str, worker: u64, ends: &AtomicBool) -> Vec<Event> {
    let locker: Locker = onelock::open(url).await.expect("the store opens");
    let mut events = Vec::new();
    let until = |guard: &Guard| guard.valid_until().map(|until: ClockReading| until.boot);
    while !ends.load(Ordering::Relaxed) {
        events.push(event(now(), worker, EventKind::Attempt { owner: None }));
        let Ok(TryAcquire::Acquired(guard)) = locker.acquire_within(NAME, Duration::from_secs(1)).await else {
            events.push(event(now(), worker, EventKind::GaveUp));
            continue;
        };
        let (at, token) = (now(), guard.token().map(|token| token.get()));
        let granted = EventKind::Granted { token, until: until(&guard), mode: Mode::Exclusive };
        events.push(event(at, worker, granted));
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..10))).await;
        let (at, end) = (now(), until(&guard));
        let is_valid = guard.check().is_ok();
        let kind = if is_valid { EventKind::Valid { until: end } } else { EventKind::Lost { told: true } };
        events.push(event(at, worker, kind));
        if is_valid {
            events.push(event(now(), worker, EventKind::Released));
        }
        let _ = guard.release().await;
    }
    events
}

fn torture(url: &str) {
    let (package, ends, until) = (Package::new(), AtomicBool::new(false), Instant::now() + duration());
    let mut numbers = RUST as u64..;
    let mut next = || numbers.next().expect("there are enough numbers");
    let mut events = Vec::new();
    let (mut killed, mut stopped) = (0, 0);
    let mut workers: Vec<_> = (0..PYTHON).map(|_| Worker::start(&package, url, next())).collect();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..RUST as u64)
            .map(|worker| {
                let ends = &ends;
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                    runtime.expect("a runtime").block_on(contend(url, worker, ends))
                })
            })
            .collect();
        while Instant::now() < until {
            thread::sleep(Duration::from_millis(fastrand::u64(50..400)));
            let worker = fastrand::choice(&mut workers).expect("there are workers");
            if worker.is_stopped {
                worker.process.thaw();
                worker.is_stopped = false;
            } else if fastrand::bool() {
                worker.process.freeze();
                worker.is_stopped = true;
                stopped += 1;
            } else {
                killed += 1;
                events.extend(std::mem::replace(worker, Worker::start(&package, url, next())).kill());
            }
        }
        ends.store(true, Ordering::Relaxed);
        events.extend(threads.into_iter().flat_map(|thread| thread.join().expect("it ends")));
    });
    // While one is killed, the others still contend.
    events.extend(workers.into_iter().flat_map(Worker::kill));
    let report = check(&events, &Checks::default());
    println!("{killed} killed, {stopped} stopped\n{report}");
    assert!(report.violations.is_empty(), "{report}");
    assert!(report.acquisitions > 20 && killed > 0 && stopped > 0, "too little was tried: {report}");
}

#[test]
// verifies: P1, P7, contention, standstill
fn python_and_rust_exclude_each_other_on_files() {
    let place = tempfile::tempdir().expect("a directory for the test");
    torture(&format!("file://{}", place.path().display()));
}

#[test]
// verifies: P1, P7, contention, standstill
fn python_and_rust_exclude_each_other_on_redis() {
    let redis = RedisServer::start();
    torture(&format!("redis://{}/0?ttl=1s", redis.addr()));
}
