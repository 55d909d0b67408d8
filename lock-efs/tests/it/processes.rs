//! Locks when the holder's process ends, and when the holder starts other processes.

use std::{process::Command, time::Duration};

use crate::fixture::{Process, grant, in_child, myself, open, refused, request};
use lock_core::backend::{AcquireOutcome, Backend, ProcessBound};
use lock_efs::FileBackend;
use test_support::wait_for;

#[tokio::test]
async fn the_successor_of_a_killed_holder_learns_its_owner() {
    let (dir, backend) = open();
    let command = myself("processes::child_holds_a_lock", dir.path());
    for _ in 0..5 {
        let mut holder = Process::start(&command.iter().map(String::as_str).collect::<Vec<_>>());
        holder.wait_for("CHILD HOLDS");
        assert_eq!(refused(&backend, "etl").await.owner.as_deref(), Some("the child"));
        holder.kill();
        let (granted, lease) = grant(&backend, &request("etl")).await;
        assert_eq!(granted.crashed.and_then(|h| h.owner).as_deref(), Some("the child"));
        assert!(backend.release_now(&lease, Duration::ZERO));
    }
}

#[tokio::test]
async fn child_holds_a_lock() {
    let Some(dir) = in_child() else { return };
    let backend = FileBackend::open(dir).unwrap();
    let mine = request("etl").with_owner("the child");
    let _ = grant(&backend, &mine).await;
    println!("CHILD HOLDS");
    std::thread::sleep(Duration::from_secs(600));
}

#[tokio::test]
// verifies: inherited
async fn a_program_started_by_the_holder_does_not_keep_the_lock() {
    let (dir, backend) = open();
    let (_, lease) = grant(&backend, &request("etl")).await;
    let watch = backend.watch(&lease.name).await.unwrap();
    let mut daemon = Process::start(&["sleep", "600"]);
    let pid = daemon.0.id();
    let inherited = || {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok()).filter(|f| f.starts_with(dir.path())).count()
    };
    assert!(wait_for("the daemon to call exec", || {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "sleep")
    }));
    assert_eq!(inherited(), 0);
    drop((watch, backend));
    let other = FileBackend::open(dir.path()).unwrap();
    // The lock may be freed with a delay: a dropped backend only closes, and a child of another
    // test may have a copy of the descriptor until it execs.
    let mine = request("etl");
    while let AcquireOutcome::Contended(_) = other.acquire(&mine).await.unwrap() {
        tokio::task::yield_now().await;
    }
    assert!(daemon.0.try_wait().unwrap().is_none(), "the daemon still runs");
}

/// Between fork and exec a child has every descriptor of its parent. So a release must unlock
/// explicitly, not only close.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
// verifies: inherited
async fn a_release_frees_the_lock_while_other_threads_start_programs() {
    let (dir, backend) = open();
    let other = FileBackend::open(dir.path()).unwrap();
    let spawner = std::thread::spawn(|| {
        for _ in 0..300 {
            assert!(Command::new("true").status().unwrap().success());
        }
    });
    while !spawner.is_finished() {
        let (_, lease) = grant(&backend, &request("etl")).await;
        assert!(backend.release_now(&lease, Duration::ZERO));
        let mine = request("etl");
        let AcquireOutcome::Granted(granted) = other.acquire(&mine).await.unwrap() else {
            panic!("the lock was released but is still held")
        };
        assert!(other.release_now(&mine.lease(granted.token), Duration::ZERO));
    }
    spawner.join().unwrap();
}
