//! Tests the real `python_dynamodb_lock`, with boto3, on one table with onelock. Each client
//! excludes the other and takes over from the other.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use lock_core::{
    Locker, Renew, TryAcquire,
    backend::{AcquireOutcome, Backend, Release, Renewal},
};
use lock_dynamo::{DynamoBackend, Schema};

use crate::fixture::{Table, request};

/// The lease of the Python client.
const LEASE: Duration = Duration::from_secs(2);

const CLIENT: &str = r#"
import sys, boto3
from datetime import timedelta
from python_dynamodb_lock.python_dynamodb_lock import DynamoDBLockClient, DynamoDBLockError
endpoint, table, name, wait = sys.argv[1:]
resource = boto3.resource("dynamodb", endpoint_url=endpoint, region_name="eu-central-1",
                          aws_access_key_id="test", aws_secret_access_key="test")
client = DynamoDBLockClient(resource, table_name=table, owner_name="python",
                            heartbeat_period=timedelta(milliseconds=500),
                            safe_period=timedelta(milliseconds=1500), lease_duration=timedelta(seconds=2))
try:
    lock = client.acquire_lock(name, retry_period=timedelta(milliseconds=50),
                               retry_timeout=timedelta(seconds=float(wait)),
                               additional_attributes={"team": "etl"})
except DynamoDBLockError as error:
    print("refused", error.code, flush=True)
    sys.exit()
print("acquired", flush=True)
sys.stdin.read()
try:
    lock.release(best_effort=False)
    print("released", flush=True)
except DynamoDBLockError as error:
    print("lost", error.code, flush=True)
"#;

struct Python {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    stdin: Option<ChildStdin>,
}

impl Python {
    /// Starts a client that waits for the lock for at most `wait` seconds.
    fn start(table: &Table, wait: f64) -> Self {
        let mut child = Command::new(test_support::python::python())
            .args(["-c", CLIENT, &table.server.endpoint(), &table.name, "job", &wait.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was there a moment ago");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { stdin: child.stdin.take(), child, lines }
    }

    fn says(&mut self) -> String {
        self.lines.next().expect("it says a line").expect("it is text")
    }

    fn release(mut self) -> String {
        drop(self.stdin.take());
        self.says()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A table; and before any lock is held, the interpreter, which may take a while to set up.
async fn table() -> Table {
    tokio::task::spawn_blocking(test_support::python::python).await.expect("it says what is missing");
    Table::new(Schema::Python).await
}

fn locker(table: &Table, renew: Renew) -> Locker {
    let backend = Arc::new(DynamoBackend::new(table.config()));
    Locker::builder(backend).ttl(LEASE).renew(renew).owner("rust").build().expect("the times fit")
}

async fn try_acquire(locker: &Locker) -> TryAcquire {
    locker.try_acquire("job").await.expect("the store answers")
}

#[tokio::test]
async fn python_lock_excludes_us_until_released() {
    let table = table().await;
    let mut python = Python::start(&table, 0.0);
    assert_eq!(python.says(), "acquired");
    let locker = locker(&table, Renew::Auto);
    // Longer than its lease, which its heartbeats extend.
    let started = Instant::now();
    while started.elapsed() < LEASE * 2 {
        let TryAcquire::Contended(holder) = try_acquire(&locker).await else { panic!("two holders") };
        assert_eq!(holder.owner.as_deref(), Some("python"));
        assert_eq!(holder.foreign.as_deref(), Some("a lock of python_dynamodb_lock"));
        assert!(holder.expires_in.expect("it has a lease") <= LEASE);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(python.release(), "released");
    let TryAcquire::Acquired(guard) = try_acquire(&locker).await else { panic!("it is free") };
    assert_eq!(guard.crashed_holder(), None);
    assert_eq!(guard.release().await.expect("it answers"), Release::Released);
}

#[tokio::test]
async fn our_lock_excludes_python_until_released() {
    let table = table().await;
    let TryAcquire::Acquired(guard) = try_acquire(&locker(&table, Renew::Auto)).await else { panic!("it is free") };
    let says = tokio::task::spawn_blocking({
        let mut python = Python::start(&table, 2.0 * LEASE.as_secs_f64());
        move || python.says()
    });
    assert_eq!(says.await.expect("no panic"), "refused ACQUIRE_TIMEOUT", "our heartbeats keep python out");
    guard.check().expect("not lost");
    assert_eq!(guard.release().await.expect("it answers"), Release::Released);
    let mut python = Python::start(&table, 0.0);
    assert_eq!(python.says(), "acquired");
    assert_eq!(python.release(), "released");
}

#[tokio::test]
async fn we_take_over_from_killed_python_after_its_lease() {
    let table = table().await;
    let mut python = Python::start(&table, 0.0);
    assert_eq!(python.says(), "acquired");
    drop(python);
    let locker = locker(&table, Renew::Auto);
    let started = Instant::now();
    let TryAcquire::Acquired(guard) = locker.acquire_within("job", 5 * LEASE).await.expect("it answers") else {
        panic!("a dead holder's lock can be acquired");
    };
    assert!(started.elapsed() >= LEASE, "acquired only after its whole lease");
    assert_eq!(guard.crashed_holder().and_then(|holder| holder.owner.as_deref()), Some("python"));
    assert_eq!(guard.release().await.expect("it answers"), Release::Released);
}

#[tokio::test]
async fn python_takes_over_from_us_after_our_lease() {
    let table = table().await;
    let backend = DynamoBackend::new(table.config());
    let request = request("job", LEASE);
    assert!(matches!(backend.acquire(&request).await.unwrap(), AcquireOutcome::Granted(_)));
    let started = Instant::now();
    let mut python = Python::start(&table, 5.0 * LEASE.as_secs_f64());
    assert_eq!(python.says(), "acquired");
    assert!(started.elapsed() >= LEASE, "acquired only after our whole lease");
    let Renewal::Lost(reason) = backend.renew(&request.lease(None)).await.unwrap() else { panic!("it is python's") };
    assert!(reason.to_string().starts_with("taken by python"), "{reason}");
    let Release::NotHeld(Some(_)) = backend.release(&request.lease(None), Duration::ZERO).await.unwrap() else {
        panic!("it is python's");
    };
    assert_eq!(python.release(), "released");
}

#[tokio::test]
async fn python_learns_that_we_took_its_lock() {
    let table = table().await;
    let mut python = Python::start(&table, 0.0);
    assert_eq!(python.says(), "acquired");
    // Stopped, not dead: its heartbeats come back after we have taken the lock.
    let pid = python.child.id().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().is_ok_and(|s| s.success()));
    signal("-STOP");
    let locker = locker(&table, Renew::Auto);
    let TryAcquire::Acquired(guard) = locker.acquire_within("job", 5 * LEASE).await.expect("it answers") else {
        panic!("a stopped holder's lock can be acquired");
    };
    signal("-CONT");
    // Long enough for several of its heartbeats, none of which may change anything.
    tokio::time::sleep(LEASE).await;
    guard.check().expect("its late heartbeat changed nothing");
    let last = python.release();
    assert_ne!(last, "acquired");
    guard.check().expect("nor did its release");
    let TryAcquire::Contended(_) = try_acquire(&locker).await else { panic!("two holders") };
    assert_eq!(guard.release().await.expect("it answers"), Release::Released);
}
