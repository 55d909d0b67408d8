//! Tests which process may take over a dead holder's lock, and when: killed and cold processes, and
//! wrong clocks.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use lock_core::{
    backend::{AcquireOutcome, Backend},
    clock::{Clock, ClockReading, SystemClock},
};
use lock_dynamo::{DynamoBackend, Schema, Takeover};
use test_support::{set_clock_off, until};

use crate::fixture::{Ages, Table, request};

const TTL: Duration = Duration::from_millis(1_500);
const BOUND: Duration = Duration::from_millis(600);

/// A process that has made one attempt.
struct Contender {
    child: Child,
    /// The line that it printed about the attempt.
    said: String,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    stdin: Option<ChildStdin>,
}

impl Contender {
    fn kill(self) {
        drop(self);
    }

    /// Lets the process release, and returns the line that it prints.
    fn finish(mut self) -> String {
        drop(self.stdin.take());
        let last = self.lines.next().transpose().expect("its output is text").unwrap_or_default();
        self.child.wait().expect("it has ended");
        last
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> PathBuf {
    let mut path = std::env::current_exe().expect("a test has a path");
    path.pop();
    path.pop();
    path.push("examples/contender");
    assert!(path.exists(), "{path:?} is not built: cargo build -p lock-dynamo --example contender");
    path
}

fn start(mut command: Command) -> Contender {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let said = lines.next().expect("it says one line").expect("its output is text");
    Contender { stdin: child.stdin.take(), child, said, lines }
}

fn contend(table: &Table, takeover: &str) -> Contender {
    let mut command = Command::new(program());
    arguments(&mut command, table, takeover);
    start(command)
}

/// Like `contend`, with a wrong wall clock; elapsed time stays correct.
fn contend_with_clock_off(table: &Table, offset: &str) -> Contender {
    let mut command = Command::new(program());
    set_clock_off(&mut command, offset);
    arguments(&mut command, table, "absolute");
    start(command)
}

fn arguments(command: &mut Command, table: &Table, takeover: &str) {
    let endpoint = table.server.endpoint();
    let (bound, ttl) = (BOUND.as_millis().to_string(), TTL.as_millis().to_string());
    command.args([&endpoint, &table.name, "native", takeover, &bound, "job", &ttl]);
}

/// Waits for the end of a lease, which only time can bring.
async fn sleep_until(time: SystemTime) {
    if let Ok(left) = time.duration_since(SystemTime::now()) {
        tokio::time::sleep(left).await;
    }
}

#[tokio::test]
async fn cold_process_takes_over_after_expiry_plus_skew_bound() {
    let table = Table::new(Schema::Native).await;
    let holder = contend(&table, "absolute");
    assert_eq!(holder.said, "acquired after none");
    let first = table.expiry("job").await;
    until("a renewal, whose expiry counts then", async || table.expiry("job").await > first).await;
    holder.kill();
    let free = table.expiry("job").await + BOUND;
    assert!(free > SystemTime::now() + TTL / 2, "a killed holder's lock lasts");
    let mut refused = 0;
    loop {
        let cold = contend(&table, "absolute");
        if SystemTime::now() >= free {
            break;
        }
        assert!(cold.said.starts_with("held by"), "{} before the time", cold.said);
        refused += 1;
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn only_absolute_takeover_admits_a_cold_process() {
    let table = Table::new(Schema::Native).await;
    contend(&table, "absolute").kill();
    sleep_until(table.expiry("job").await + BOUND + Duration::from_millis(5)).await;
    for _ in 0..3 {
        let patient = contend(&table, "observed");
        assert!(patient.said.starts_with("held by"), "{}", patient.said);
    }
    let cold = contend(&table, "absolute");
    assert!(cold.said.starts_with("acquired after ") && !cold.said.ends_with("none"), "{}", cold.said);
    assert_eq!(cold.finish(), "Released");
}

#[tokio::test]
// verifies: clock-set
async fn process_with_a_fast_clock_refuses_to_take_over() {
    let table = Table::new(Schema::Native).await;
    let holder = contend(&table, "absolute");
    let fast = contend_with_clock_off(&table, "+3600s");
    assert!(fast.said.starts_with("held by"), "{}", fast.said);
    holder.kill();
    // A wrong clock does not decide, even if the lock is free for other clients.
    sleep_until(table.expiry("job").await + BOUND + Duration::from_millis(1_100)).await;
    let fast = contend_with_clock_off(&table, "+3600s");
    assert!(fast.said.contains("by +3599") || fast.said.contains("by +3600"), "{}", fast.said);
    assert!(fast.said.contains("set the clock"), "{}", fast.said);
    assert!(contend(&table, "absolute").said.starts_with("acquired"));
}

#[tokio::test]
// verifies: clock-set
async fn holder_with_a_wrong_clock_keeps_and_releases_its_lock() {
    for offset in ["-3600s", "+3600s"] {
        let table = Table::new(Schema::Native).await;
        let wrong = contend_with_clock_off(&table, offset);
        assert_eq!(wrong.said, "acquired after none", "{offset}");
        // Through several renewals.
        let first = table.expiry("job").await;
        while table.expiry("job").await < first + TTL {
            let other = contend(&table, "absolute");
            assert!(other.said.starts_with("held by"), "{offset}: {}", other.said);
        }
        wrong.kill();
        let expiry = table.expiry("job").await;
        assert!(
            expiry < SystemTime::now() + TTL + Duration::from_millis(1_200),
            "{offset}: the store's clock to a second"
        );
        sleep_until(expiry + BOUND + Duration::from_millis(5)).await;
        assert!(contend(&table, "absolute").said.starts_with("acquired"), "{offset}");
    }
}

/// A machine with a wrong wall clock.
#[derive(Debug)]
struct Off(i64);

impl Clock for Off {
    fn now(&self) -> ClockReading {
        let ClockReading { boot, wall } = SystemClock.now();
        let secs = wall.as_secs().checked_add_signed(self.0).expect("after 1970");
        ClockReading { boot, wall: Duration::new(secs, wall.subsec_nanos()) }
    }
}

#[tokio::test]
async fn watching_takes_over_despite_wrong_clocks() {
    let table = Table::new(Schema::Native).await;
    let ttl = Duration::from_millis(700);
    let dead = DynamoBackend::new(table.config());
    assert!(matches!(dead.acquire(&request("job", ttl)).await.unwrap(), AcquireOutcome::Granted(_)));
    let clocks = [Off(3_600), Off(-3_600)].map(Arc::new);
    for (clock, takeover) in clocks.into_iter().zip([Takeover::Absolute, Takeover::Observed]) {
        let watcher = DynamoBackend::with_clock(table.config().takeover(takeover), clock);
        let started = std::time::Instant::now();
        let mut first = request("job", ttl);
        loop {
            first.id = lock_core::backend::LeaseId::random();
            match watcher.acquire(&first).await {
                Ok(AcquireOutcome::Granted(grant)) => {
                    assert!(grant.crashed.is_some());
                    break;
                }
                // There is no error before the lease is over for all clients.
                Ok(AcquireOutcome::Contended(_)) => {}
                Err(error) => assert!(error.is_retryable() && !error.is_ambiguous(), "{error}"),
            }
            // As the core would: what is waited for is that it is granted.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(started.elapsed() >= ttl, "a whole lease must be watched");
    }
}

#[tokio::test]
async fn heartbeat_restarts_the_watched_lease() {
    let table = Table::new(Schema::Native).await;
    let (long, short) = (Duration::from_secs(90), Duration::from_secs(5));
    let holder = DynamoBackend::new(table.config());
    let held = request("job", long);
    assert!(matches!(holder.acquire(&held).await.unwrap(), AcquireOutcome::Granted(_)));
    let clock = Arc::new(Ages::default());
    let watcher = DynamoBackend::with_clock(table.config().takeover(Takeover::Observed), clock.clone());
    let refused = |attempt: AcquireOutcome| assert!(matches!(attempt, AcquireOutcome::Contended(_)));
    refused(watcher.acquire(&request("job", short)).await.unwrap());
    // Each pause is two thirds of the lease: one ends before it, two after it.
    clock.pass(long * 2 / 3);
    let _ = holder.renew(&held.lease(None)).await.unwrap();
    refused(watcher.acquire(&request("job", short)).await.unwrap());
    clock.pass(long * 2 / 3);
    refused(watcher.acquire(&request("job", short)).await.unwrap());
    clock.pass(long * 2 / 3);
    assert!(matches!(watcher.acquire(&request("job", short)).await.unwrap(), AcquireOutcome::Granted(_)));
}
