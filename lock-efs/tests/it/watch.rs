//! Releases wake waiters, and waiters do not keep waking each other.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::fixture::{Process, grant, in_child, myself, name, open, refused, request, run_child};
use lock_core::{
    Locker,
    backend::{AcquireOutcome, Backend, ProcessBound, Watch},
};
use lock_efs::FileBackend;
use test_support::wait_for;

/// Bounds only a failing test.
const LONG: Duration = Duration::from_secs(20);

async fn woken(watch: &mut Box<dyn Watch>) {
    tokio::time::timeout(LONG, watch.changed()).await.expect("the watch must wake");
}

async fn watch(backend: &FileBackend, text: &str) -> Box<dyn Watch> {
    backend.watch(&name(text)).await.unwrap().expect("local files can be watched")
}

#[tokio::test]
async fn a_watch_wakes_on_releases_by_onelock_and_flock_1() {
    let (dir, holder) = open();
    let waiter = FileBackend::open(dir.path()).unwrap();
    let (_, lease) = grant(&holder, &request("etl")).await;
    let mut watch = watch(&waiter, "etl").await;
    refused(&waiter, "etl").await;
    assert!(holder.release_now(&lease, Duration::ZERO));
    woken(&mut watch).await;
    let (_, lease) = grant(&waiter, &request("etl")).await;
    assert!(waiter.release_now(&lease, Duration::ZERO));

    let path = waiter.lock_path(&name("etl"));
    let mut flock = Process::start(&["flock", path.to_str().unwrap(), "sh", "-c", "echo locked; read x"]);
    flock.wait_for("locked");
    let _ = tokio::time::timeout(Duration::from_millis(1), watch.changed()).await;
    refused(&waiter, "etl").await;
    drop(flock.0.stdin.take());
    until_granted(&waiter, &mut watch).await;
}

/// Acquires as the core does: after a wake-up, and after a premature wake-up by polling.
async fn until_granted(backend: &FileBackend, watch: &mut Box<dyn Watch>) -> lock_core::backend::Lease {
    let mine = request("etl");
    let end = tokio::time::Instant::now() + LONG;
    loop {
        if let AcquireOutcome::Granted(grant) = backend.acquire(&mine).await.unwrap() {
            return mine.lease(grant.token);
        }
        assert!(tokio::time::Instant::now() < end, "still held");
        let _ = tokio::time::timeout(Duration::from_millis(5), watch.changed()).await;
    }
}

#[tokio::test]
async fn a_watch_wakes_when_the_holder_is_killed() {
    let (dir, waiter) = open();
    let command = myself("watch::child_holds_a_lock", dir.path());
    let mut holder = Process::start(&command.iter().map(String::as_str).collect::<Vec<_>>());
    holder.wait_for("CHILD HOLDS");
    refused(&waiter, "etl").await;
    let mut watch = watch(&waiter, "etl").await;
    holder.0.kill().unwrap();
    woken(&mut watch).await;
    until_granted(&waiter, &mut watch).await;
}

#[tokio::test]
async fn child_holds_a_lock() {
    let Some(dir) = in_child() else { return };
    let backend = FileBackend::open(dir).unwrap();
    let _ = grant(&backend, &request("etl")).await;
    println!("CHILD HOLDS");
    std::thread::sleep(Duration::from_secs(600));
}

#[tokio::test]
async fn a_watch_wakes_on_a_release_with_a_lent_descriptor() {
    let (_dir, backend) = open();
    let (_, lease) = grant(&backend, &request("etl")).await;
    let lent = backend.descriptors(&lease).unwrap();
    let mut watch = watch(&backend, "etl").await;
    assert!(backend.release_now(&lease, Duration::ZERO));
    woken(&mut watch).await;
    drop(lent);
}

/// If every try closed a descriptor, waiters would keep waking each other: thousands of tries
/// instead of a few. A wake-up reaches only the first waiter, however many wait.
#[tokio::test]
async fn waiters_do_not_keep_waking_each_other() {
    let (dir, holder) = open();
    let (_, _lease) = grant(&holder, &request("etl")).await;
    let (tries, wakes) = (Arc::new(AtomicUsize::new(0)), 5);
    for _ in 0..3 {
        let waiter = FileBackend::open(dir.path()).unwrap();
        let tries = Arc::clone(&tries);
        let mut watch = watch(&waiter, "etl").await;
        tokio::spawn(async move {
            loop {
                refused(&waiter, "etl").await;
                tries.fetch_add(1, Relaxed);
                watch.changed().await;
            }
        });
    }
    let path = holder.lock_path(&name("etl"));
    let more_than = async |before: usize| {
        let more = async {
            while tries.load(Relaxed) <= before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LONG, more).await.expect("a waiter tries");
    };
    more_than(2).await;
    for _ in 0..wakes {
        let before = tries.load(Relaxed);
        drop(fs::OpenOptions::new().write(true).open(&path).unwrap());
        more_than(before).await;
    }
    // The absence of tries has no condition to wait for. Waiters that wake each other show within
    // this time.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let tries = tries.load(Relaxed);
    // Each waiter tries once at the start, and the first one once for each wake-up. It tries once
    // more when it becomes first.
    assert!(tries <= 3 + wakes + 2, "{tries} tries");
}

#[tokio::test]
async fn a_refused_waiter_starts_to_watch_without_waking_others() {
    let (dir, holder) = open();
    let (_, _lease) = grant(&holder, &request("etl")).await;
    let (first, second) = (FileBackend::open(dir.path()).unwrap(), FileBackend::open(dir.path()).unwrap());
    let mut waiting = watch(&first, "etl").await;
    refused(&second, "etl").await;
    let _second_watch = watch(&second, "etl").await;
    refused(&second, "etl").await;
    // The absence of a wake-up has no condition to wait for. A wake-up would come at once.
    assert!(tokio::time::timeout(Duration::from_millis(50), waiting.changed()).await.is_err());
}

/// Waiters of one backend try at the same time. With a common descriptor they would share one lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_of_one_backend_never_share_a_lock() {
    let (_dir, backend) = open();
    let backend = Arc::new(backend);
    let inside = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let (backend, inside) = (Arc::clone(&backend), Arc::clone(&inside));
            tokio::spawn(async move {
                for _ in 0..50 {
                    let mut watch = watch(&backend, "etl").await;
                    let lease = until_granted(&backend, &mut watch).await;
                    assert_eq!(inside.fetch_add(1, Relaxed), 0, "two holders at once");
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Relaxed);
                    assert!(backend.release_now(&lease, Duration::ZERO));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_dropped_watch_leaves_no_descriptor_open() {
    let (dir, backend) = open();
    let open_as = |suffix: &str| {
        let fds = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        fds.filter(|f| f.starts_with(dir.path()) && f.to_string_lossy().ends_with(suffix)).count()
    };
    let open_here = || open_as(".lock") + open_as(".info") + open_as(".prev");
    let (_, lease) = grant(&backend, &request("etl")).await;
    let held = open_here();
    let watches = [watch(&backend, "etl").await, watch(&backend, "etl").await];
    refused(&backend, "etl").await;
    assert_eq!(open_here(), held + 2);
    drop(watches);
    assert_eq!(open_here(), held);
    assert!(wait_for("the end of the queue", || open_as(".queue") == 0));
    assert!(backend.release_now(&lease, Duration::ZERO));
    assert_eq!(open_here(), 0);
}

/// A waiter drops its watch when it has the lock. Closing an inotify instance takes the kernel 5 to
/// 20 ms, so a thread closes it. The benchmark of files measures this as `hand-off`.
#[tokio::test]
async fn dropping_a_watch_does_not_wait_for_the_kernel() {
    let (_dir, backend) = open();
    let drop_until_a_thread_closes = async {
        loop {
            drop(watch(&backend, "etl").await);
            if has_thread("onelock-close") {
                break;
            }
            // The timeout can take effect only at an await.
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, drop_until_a_thread_closes).await.expect("a thread closes the instance");
}

fn has_thread(name: &str) -> bool {
    let mut threads = fs::read_dir("/proc/self/task").unwrap();
    threads.any(|thread| fs::read_to_string(thread.unwrap().path().join("comm")).is_ok_and(|comm| comm.trim() == name))
}

/// The lock file is replaced between open and lock, so the waiter has the old file open.
#[tokio::test]
// verifies: file-system
async fn a_lock_file_replaced_after_open_is_reopened() {
    let (dir, holder) = open();
    let waiter = FileBackend::open(dir.path()).unwrap();
    let path = holder.lock_path(&name("etl"));
    let mut watch = watch(&waiter, "etl").await;
    fs::remove_file(&path).unwrap();
    let (_, lease) = grant(&holder, &request("etl")).await;
    refused(&waiter, "etl").await;
    woken(&mut watch).await;
    refused(&waiter, "etl").await;
    while tokio::time::timeout(Duration::from_millis(1), watch.changed()).await.is_ok() {}
    assert!(holder.release_now(&lease, Duration::ZERO));
    woken(&mut watch).await;
    let (_, lease) = grant(&waiter, &request("etl")).await;
    assert!(matches!(waiter.renew(&lease).await.unwrap(), lock_core::backend::Renewal::Renewed));
    refused(&holder, "etl").await;
}

#[test]
fn waiters_poll_without_an_io_driver() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (dir, backend) = open();
        assert!(backend.watch(&name("etl")).await.unwrap().is_none());
        let waiting = Locker::new(FileBackend::open(dir.path()).unwrap()).unwrap();
        let (_, lease) = grant(&backend, &request("etl")).await;
        let waiter = tokio::spawn(async move { waiting.acquire_within("etl", LONG).await.map(drop) });
        tokio::task::yield_now().await;
        assert!(backend.release_now(&lease, Duration::ZERO));
        waiter.await.unwrap().unwrap();
    });
}

#[test]
fn waiters_poll_without_inotify_instances() {
    let dir = tempfile::tempdir().unwrap();
    let limited = ["unshare", "--user", "--map-root-user", "sh", "-c"];
    let script = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\" \"$@\"";
    run_child(&[&limited[..], &[script]].concat(), "watch::child_without_inotify", dir.path());
}

#[tokio::test]
async fn child_without_inotify() {
    let Some(dir) = in_child() else { return };
    let backend = FileBackend::open(dir).unwrap();
    assert!(backend.watch(&name("etl")).await.unwrap().is_none());
    println!("CHILD RAN");
}

/// The queue has the longest suffix of all files of a lock.
#[tokio::test]
async fn the_longest_file_name_has_room_for_the_queue() {
    let (dir, backend) = open();
    for length in [248, 249, 250, 1_000] {
        let text = "x".repeat(length);
        let (_, lease) = grant(&backend, &request(&text)).await;
        drop(watch(&backend, &text).await);
        assert!(backend.release_now(&lease, Duration::ZERO));
    }
    let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().len());
    assert_eq!(names.max(), Some(255));
}
