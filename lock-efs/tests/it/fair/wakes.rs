//! Which waiter a release, a wait that ends and a refused newcomer wake.

use std::{fs, os::unix::fs::MetadataExt, path::Path, process::Command, sync::Arc, time::Duration};

use lock_core::{
    Mode,
    backend::{AcquireOutcome, AcquireRequest, Backend, ProcessBound, Watch},
};
use lock_efs::{FileBackend, FileConfig, Names};
use test_support::wait_for;

use super::{LONG, granted_soon, is_refused, waiter};
use crate::fixture::{Process, grant, name, open, request};

async fn woken(watch: &mut Box<dyn Watch>) {
    tokio::time::timeout(LONG, watch.changed()).await.expect("the watch must wake");
}

async fn watch_place(backend: &FileBackend, request: &AcquireRequest) -> Box<dyn Watch> {
    backend.watch_place(request).await.unwrap().expect("local files can be watched")
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
    assert!(wait_for("the first one to queue in the kernel", || waiting_for(&dir.path().join("etl.fair")) == 1));
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
