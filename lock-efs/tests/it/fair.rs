//! First come, first served: killed, stopped and forked waiters, wake-ups, and the file of the
//! queue.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use lock_core::{
    Locker, Mode,
    backend::{AcquireOutcome, AcquireRequest, Backend, Lease, ProcessBound, Watch},
};
use lock_efs::{FileBackend, FileConfig, Names, Sweep};
use test_support::fork::{forked, wait_for_the_end_of_input};

use crate::fixture::{Process, grant, in_child, myself, name, open, request, until};

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

async fn woken(watch: &mut Box<dyn Watch>) {
    tokio::time::timeout(LONG, watch.changed()).await.expect("the watch must wake");
}

async fn watch_place(backend: &FileBackend, request: &AcquireRequest) -> Box<dyn Watch> {
    backend.watch_place(request).await.unwrap().expect("local files can be watched")
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
    assert!(backend.release_now(&held, Duration::ZERO));
    assert!(is_refused(&backend, &first).await);
    let AcquireOutcome::Contended(holder) = backend.acquire(&request("etl")).await.unwrap() else {
        panic!("a newcomer has overtaken a fair waiter")
    };
    assert_eq!(holder.owner.as_deref(), Some("the child"), "the refusal names the waiter");
    killed.kill();
    let (_, lease) = grant(&backend, &first).await;
    assert!(is_refused(&backend, &last).await);
    assert!(backend.release_now(&lease, Duration::ZERO));
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
    assert!(backend.release_now(&held, Duration::ZERO));
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
    assert!(backend.release_now(&held, Duration::ZERO));
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
    assert!(backend.release_now(&held, Duration::ZERO));
    assert!(is_refused(&backend, &request("etl")).await, "the child ended the place of its parent");
    let (_, held) = grant(&waiting, &first).await;

    let mut parent = start("fair::child_waits_and_forks", dir.path());
    let _input = parent.0.stdin.take();
    parent.wait_for("CHILD FORKED");
    assert!(waiting.release_now(&held, Duration::ZERO));
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

#[tokio::test]
// verifies: P12
async fn a_release_wakes_the_first_place_among_watches_in_any_order() {
    let (dir, holder) = open();
    let [a, b] = [(); 2].map(|()| FileBackend::open(dir.path()).unwrap());
    let (_, held) = grant(&holder, &request("etl")).await;
    let (first, second) = (waiter(), waiter());
    assert!(is_refused(&a, &first).await && is_refused(&b, &second).await);
    let mut of_second = watch_place(&b, &second).await;
    // It lets the others go first, but none is there.
    assert!(tokio::time::timeout(Duration::from_millis(1), of_second.changed()).await.is_err());
    assert!(is_refused(&b, &second).await);
    woken(&mut of_second).await;
    assert!(is_refused(&b, &second).await);
    // As after a stop of the first process, which the kernel then puts last.
    let mut of_first = watch_place(&a, &first).await;
    until("the first one queues in the kernel", || waiting_for(&dir.path().join("etl.fair")) == 1);
    let waiting = tokio::spawn(async move {
        loop {
            // As the core does, whose attempts are far less frequent.
            let _ = tokio::time::timeout(Duration::from_millis(50), of_second.changed()).await;
            if let AcquireOutcome::Granted(_) = b.acquire(&second).await.unwrap() {
                return;
            }
        }
    });
    tokio::task::yield_now().await;
    assert!(holder.release_now(&held, Duration::ZERO));
    // If the kernel is slow to run the first one, the second comes first again, until a close of
    // the lock file.
    let path = holder.lock_path(&name("etl"));
    let of_first_wakes = async {
        while tokio::time::timeout(Duration::from_millis(200), of_first.changed()).await.is_err() {
            drop(fs::File::open(&path).unwrap());
        }
    };
    tokio::time::timeout(LONG, of_first_wakes).await.expect("the watch must wake");
    let (_, held) = grant(&a, &first).await;
    assert!(!waiting.is_finished());
    drop(of_first);
    assert!(a.release_now(&held, Duration::ZERO));
    waiting.await.unwrap();
}

/// Returns how many calls of flock(2) wait for the file, by the kernel's list.
fn waiting_for(path: &Path) -> usize {
    let file = format!(":{} ", fs::metadata(path).unwrap().ino());
    let locks = fs::read_to_string("/proc/locks").expect("proc is mounted");
    locks.lines().filter(|line| line.contains("->") && line.contains("FLOCK") && line.contains(&file)).count()
}

#[tokio::test]
// verifies: P12, cancelled
async fn a_waiter_that_leaves_its_turn_wakes_the_others() {
    let (dir, a) = open();
    let [b, c] = [(); 2].map(|()| FileBackend::open(dir.path()).unwrap());
    let (_, held) = grant(&a, &request("etl")).await;
    let (first, second, unfair) = (waiter(), waiter(), request("etl").with_waits(true));
    assert!(is_refused(&a, &first).await && is_refused(&b, &second).await);
    assert!(a.release_now(&held, Duration::ZERO));
    let mut of_second = watch_place(&b, &second).await;
    let mut of_unfair = c.watch(&unfair.name).await.unwrap().unwrap();
    assert!(is_refused(&b, &second).await && is_refused(&c, &unfair).await);
    // It lets the others go first, but none is there.
    assert!(tokio::time::timeout(Duration::from_millis(1), of_second.changed()).await.is_err());
    woken(&mut of_second).await;
    while tokio::time::timeout(Duration::from_millis(1), of_second.changed()).await.is_ok() {}
    while tokio::time::timeout(Duration::from_millis(1), of_unfair.changed()).await.is_ok() {}
    assert!(a.release_now(&first.lease(None), Duration::ZERO));
    woken(&mut of_second).await;
    woken(&mut of_unfair).await;
    assert!(is_refused(&c, &unfair).await);
    assert!(b.release_now(&second.lease(None), Duration::ZERO));
    woken(&mut of_unfair).await;
    grant(&c, &unfair).await;
}

/// A newcomer locks the lock file for a moment, and may so refuse the first of the queue.
#[tokio::test]
// verifies: P12
async fn a_refused_newcomer_wakes_the_first_place_once() {
    let (dir, a) = open();
    let b = FileBackend::open(dir.path()).unwrap();
    let (_, held) = grant(&a, &request("etl")).await;
    let first = waiter();
    assert!(is_refused(&a, &first).await);
    let mut watch = watch_place(&a, &first).await;
    assert!(b.release_now(&held, Duration::ZERO) && a.release_now(&held, Duration::ZERO));
    while tokio::time::timeout(Duration::from_millis(1), watch.changed()).await.is_ok() {}
    let newcomer = request("etl").with_waits(true);
    assert!(is_refused(&b, &newcomer).await);
    woken(&mut watch).await;
    for _ in 0..3 {
        assert!(is_refused(&b, &newcomer).await);
    }
    // The absence of a wake-up has no condition to wait for. A wake-up would come at once.
    assert!(tokio::time::timeout(Duration::from_millis(50), watch.changed()).await.is_err());
    grant(&a, &first).await;
}

#[tokio::test]
// verifies: P12
async fn a_permit_that_a_place_leaves_free_is_given_away() {
    let permit =
        |request: AcquireRequest| request.with_mode(Mode::Permit { of: std::num::NonZeroU16::new(2).unwrap() });
    let (dir, a) = open();
    let b = FileBackend::open(dir.path()).unwrap();
    let (_, held) = grant(&a, &request("etl")).await;
    let (first, unfair) = (permit(waiter()), permit(request("etl")).with_waits(true));
    assert!(is_refused(&a, &first).await);
    let mut watch = b.watch(&unfair.name).await.unwrap().unwrap();
    assert!(a.release_now(&held, Duration::ZERO));
    // Two are free, and one of them is for the place.
    grant(&b, &permit(request("etl"))).await;
    assert!(is_refused(&b, &unfair).await);
    while tokio::time::timeout(Duration::from_millis(1), watch.changed()).await.is_ok() {}
    let (_, lease) = grant(&a, &first).await;
    woken(&mut watch).await;
    assert!(is_refused(&b, &unfair).await);
    assert!(a.release_now(&lease, Duration::ZERO));
    granted_soon(&b, &unfair).await;
}

#[tokio::test]
// verifies: file-system
async fn a_removed_queue_is_made_anew() {
    let (dir, backend) = open();
    let (_, held) = grant(&backend, &request("etl")).await;
    let first = waiter();
    assert!(is_refused(&backend, &first).await);
    fs::remove_file(dir.path().join("etl.fair")).unwrap();
    assert!(is_refused(&backend, &first).await);
    assert!(backend.release_now(&held, Duration::ZERO));
    let other = FileBackend::open(dir.path()).unwrap();
    assert!(is_refused(&other, &request("etl")).await, "the place is in the new queue");
    grant(&backend, &first).await;
}

#[tokio::test]
// verifies: P12
async fn a_sweep_keeps_a_queue_with_places_and_removes_others() {
    let (dir, backend) = open();
    let file = dir.path().join("etl.fair");
    let (_, held) = grant(&backend, &request("etl")).await;
    assert!(!file.exists(), "only fair requests need it");
    let first = waiter();
    assert!(is_refused(&backend, &first).await);
    assert!(backend.release_now(&held, Duration::ZERO));
    assert_eq!(backend.sweep(Sweep::new(Duration::ZERO)).unwrap().removed.len(), 0);
    assert!(!lock_core::backend::Admin::purge(&backend, &name("etl")).await.unwrap());
    let (_, held) = grant(&backend, &first).await;
    assert!(backend.release_now(&held, Duration::ZERO));
    assert_eq!(backend.sweep(Sweep::new(Duration::ZERO)).unwrap().removed.len(), 1);
    assert!(!file.exists());
    let (_, held) = grant(&backend, &request("etl")).await;
    assert!(is_refused(&backend, &waiter()).await);
    assert!(backend.release_now(&held, Duration::ZERO));
}

/// More than there are records that name the waiters.
#[tokio::test]
// verifies: P12, contention
async fn hundreds_of_places_are_served_in_order() {
    let (dir, backend) = open();
    let (_, mut held) = grant(&backend, &request("etl")).await;
    let waiters: Vec<_> = (0..300).map(|_| waiter()).collect();
    for waiter in &waiters {
        assert!(is_refused(&backend, waiter).await);
    }
    let size = fs::metadata(dir.path().join("etl.fair")).unwrap().len();
    assert!(size <= 1024 * 257, "{size}");
    for (i, waiter) in waiters.iter().enumerate() {
        assert!(backend.release_now(&held, Duration::ZERO));
        if let Some(later) = waiters.get(i + 1) {
            assert!(is_refused(&backend, later).await);
        }
        (_, held) = grant(&backend, waiter).await;
    }
    assert!(backend.release_now(&held, Duration::ZERO));
}

/// `flock(1)` knows no queue, and takes a lock that is free.
#[tokio::test]
// verifies: P12, foreign-client
async fn waiters_for_a_plain_file_are_served_in_order_beside_flock_1() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Arc::new(FileConfig::new(dir.path()).names(Names::Plain).build().unwrap());
    let path = dir.path().join("etl");
    let mut flock = Process::start(&["flock", path.to_str().unwrap(), "sh", "-c", "echo locked; read x"]);
    flock.wait_for("locked");
    let (first, second) = (waiter(), waiter());
    assert!(is_refused(&backend, &first).await && is_refused(&backend, &second).await);
    assert!(dir.path().join(".onelock.etl.fair").exists());
    let mut watch = watch_place(&backend, &first).await;
    assert!(is_refused(&backend, &first).await);
    drop(flock.0.stdin.take());
    woken(&mut watch).await;
    flock.0.wait().unwrap();
    assert!(is_refused(&backend, &second).await);
    let free = || Command::new("flock").arg("-n").arg(&path).arg("true").status().unwrap().success();
    assert!(free());
    let lease = granted_soon(&backend, &first).await;
    assert!(!free());
    assert!(backend.release_now(&lease, Duration::ZERO));
    grant(&backend, &second).await;
}
