//! First come, first served: the order of processes, and killed, stopped and forked waiters.

mod files;
mod wakes;

use std::{
    fs,
    num::NonZeroU16,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use lock_core::{
    Locker, Mode,
    backend::{AcquireOutcome, AcquireRequest, Backend, Lease, ProcessBound, Release},
};
use lock_efs::FileBackend;
use test_support::fork::{forked, wait_for_the_end_of_input};

use crate::fixture::{Process, grant, in_child, myself, open, request};

/// Bounds only a failing test.
const LONG: Duration = Duration::from_secs(60);

/// A fair request that is repeated while it is refused.
fn waiter() -> AcquireRequest {
    request("etl").with_waits(true).with_fair(true)
}

async fn is_refused(backend: &FileBackend, request: &AcquireRequest) -> bool {
    matches!(backend.acquire(request).await.unwrap(), AcquireOutcome::Contended(_))
}

/// Repeats a request until it is granted, as the core does without a watch.
async fn granted_soon(backend: &FileBackend, request: &AcquireRequest) -> Lease {
    let end = Instant::now() + LONG;
    loop {
        match backend.acquire(request).await.unwrap() {
            AcquireOutcome::Granted(grant) => return request.lease(grant.token),
            AcquireOutcome::Contended(holder) => assert!(Instant::now() < end, "held by {holder}"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn release(backend: &FileBackend, lease: &Lease) {
    assert_eq!(backend.release(lease, Duration::ZERO).await.unwrap(), Release::Released);
}

fn start(test: &str, dir: &Path) -> Process {
    let command = myself(test, dir);
    Process::start(&command.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Starts a process that has a place in the queue, and does no more.
fn waiting_process(dir: &Path) -> Process {
    let mut process = start("fair::child_waits", dir);
    process.wait_for("CHILD WAITS");
    process
}

#[tokio::test]
async fn child_waits() {
    let Some(dir) = in_child() else { return };
    let backend = FileBackend::open(dir).unwrap();
    assert!(is_refused(&backend, &waiter().with_owner("the child")).await);
    println!("CHILD WAITS");
    std::thread::sleep(Duration::from_secs(600));
}

/// The pages say how soon a waiter without a wake-up notices that the one before it has died.
#[test]
// verifies: P9, P12
fn a_local_waiter_asks_at_least_once_a_second() {
    let (_dir, backend) = open();
    assert_eq!(backend.timings().poll_max, Duration::from_secs(1));
}

#[tokio::test]
// verifies: P9, P12
async fn a_killed_fair_waiter_is_skipped_at_once() {
    let (dir, backend) = open();
    let (_, held) = grant(&backend, &request("etl")).await;
    let (first, mut killed, last) = (waiter(), waiting_process(dir.path()), waiter());
    // The process came before the first waiter of this one.
    for waiter in [&first, &last] {
        assert!(is_refused(&backend, waiter).await);
    }
    release(&backend, &held).await;
    assert!(is_refused(&backend, &first).await);
    let AcquireOutcome::Contended(holder) = backend.acquire(&request("etl")).await.unwrap() else {
        panic!("a newcomer has overtaken a fair waiter")
    };
    assert_eq!(holder.owner.as_deref(), Some("the child"), "the refusal names the waiter");
    killed.kill();
    let (_, lease) = grant(&backend, &first).await;
    assert!(is_refused(&backend, &last).await);
    release(&backend, &lease).await;
    grant(&backend, &last).await;
}

#[tokio::test]
// verifies: P12
async fn a_stopped_fair_waiter_keeps_its_place() {
    let (dir, backend) = open();
    let (_, held) = grant(&backend, &request("etl")).await;
    let mut stopped = start("fair::child_acquires_in_its_turn", dir.path());
    stopped.wait_for("CHILD WAITS");
    let signal = |how: &str| Command::new("kill").args([how, &stopped.0.id().to_string()]).status().unwrap();
    assert!(signal("-STOP").success());
    let next = waiter();
    assert!(is_refused(&backend, &next).await);
    release(&backend, &held).await;
    for refused in [&next, &request("etl"), &request("etl").with_mode(Mode::Shared)] {
        assert!(is_refused(&backend, refused).await, "the lock stays free for the stopped process");
    }
    assert!(signal("-CONT").success());
    stopped.wait_for("CHILD HOLDS");
    assert!(is_refused(&backend, &next).await);
    stopped.kill();
    granted_soon(&backend, &next).await;
}

/// Prints when it waits and when it holds the lock, which it releases at the end of its input.
#[tokio::test]
async fn child_acquires_in_its_turn() {
    let Some(dir) = in_child() else { return };
    let locker = Locker::new(FileBackend::open(dir).unwrap()).unwrap();
    let request = locker.lock("etl").fair(true);
    let guard = request.on_contention(|_| println!("CHILD WAITS")).acquire().await.unwrap();
    println!("CHILD HOLDS {}", guard.token().unwrap());
    wait_for_the_end_of_input();
    guard.release().await.unwrap();
}

#[tokio::test]
// verifies: P12, contention
async fn fair_processes_are_served_in_their_order() {
    const PROCESSES: usize = 5;
    let (dir, backend) = open();
    let (_, held) = grant(&backend, &request("etl")).await;
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        let mut process = start("fair::child_acquires_in_its_turn", dir.path());
        process.wait_for("CHILD WAITS");
        processes.push(process);
    }
    release(&backend, &held).await;
    for mut process in processes {
        process.wait_for("CHILD HOLDS");
        assert!(is_refused(&backend, &request("etl")).await);
        drop(process.0.stdin.take());
        assert!(process.0.wait().unwrap().success());
    }
    grant(&backend, &request("etl")).await;
}

#[tokio::test]
// verifies: forked
async fn a_forked_child_neither_ends_nor_keeps_a_place() {
    let (dir, backend) = open();
    let (_, held) = grant(&backend, &request("etl")).await;
    let waiting = FileBackend::open(dir.path()).unwrap();
    let first = waiter();
    assert!(is_refused(&waiting, &first).await);
    let ((waiting, first), said) = forked((waiting, first), |(waiting, first)| {
        let released = waiting.release_now(&first.lease(None), Duration::ZERO);
        drop(waiting);
        format!("{released}")
    });
    assert_eq!(said, "true");
    release(&backend, &held).await;
    assert!(is_refused(&backend, &request("etl")).await, "the child ended the place of its parent");
    let (_, held) = grant(&waiting, &first).await;

    let mut parent = start("fair::child_waits_and_forks", dir.path());
    let _input = parent.0.stdin.take();
    parent.wait_for("CHILD FORKED");
    release(&waiting, &held).await;
    assert!(is_refused(&backend, &request("etl")).await);
    let pid = fs::read_to_string(dir.path().join("pid")).unwrap();
    parent.kill();
    granted_soon(&backend, &request("etl")).await;
    let killed = Command::new("kill").args(["-KILL", &pid]).status().unwrap();
    assert!(killed.success(), "the child had ended, so it proved nothing");
}

#[test]
fn child_waits_and_forks() {
    let Some(dir) = in_child() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let backend = FileBackend::open(&dir).unwrap();
    assert!(runtime.block_on(is_refused(&backend, &waiter())));
    forked((), |()| {
        fs::write(dir.join("pid"), std::process::id().to_string()).unwrap();
        println!("CHILD FORKED");
        wait_for_the_end_of_input();
        "ended".to_owned()
    });
}

/// A request without a place may share the lock with the places ahead of it, but waits for holders
/// of another mode. Its mark would keep out a place of their mode.
#[tokio::test]
// verifies: P12
async fn a_request_without_a_place_keeps_no_place_out() {
    let (_dir, backend) = open();
    let permit = Mode::Permit { of: NonZeroU16::MIN };
    let (_, reading) = grant(&backend, &request("etl").with_mode(Mode::Shared)).await;
    let first = waiter().with_mode(permit);
    let without = request("etl").with_mode(permit).with_waits(true);
    let second = waiter().with_mode(Mode::Shared);
    for refused in [&first, &without, &second] {
        assert!(is_refused(&backend, refused).await);
    }
    release(&backend, &reading).await;
    for next in [&first, &second] {
        let (_, lease) = grant(&backend, next).await;
        release(&backend, &lease).await;
    }
    let (_, lease) = grant(&backend, &without).await;
    release(&backend, &lease).await;
}
