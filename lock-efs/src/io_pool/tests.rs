use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
};

use lock_core::{LockName, backend::LeaseId};
use nix::{
    sys::resource::{Resource, setrlimit},
    unistd::{Uid, geteuid, setuid},
};

use test_support::wait_for;

use super::*;

fn key(n: u128) -> Key {
    (LeaseId::from(n), LockName::new("etl").expect("a name"))
}

fn pool() -> IoPool {
    IoPool::new("efs:///mnt/efs".to_owned())
}

/// Returns a call that reports its start and then waits for a message.
fn hanging() -> (impl FnOnce() -> Result<u32, Error> + Send, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let ((begun, has_begun), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel());
    let call = move || {
        let _ = begun.send(());
        let _ = may_go_on.recv();
        Ok(1)
    };
    (call, has_begun, go_on)
}

#[tokio::test]
async fn a_hanging_call_delays_only_its_own_lock() {
    let pool = pool();
    let (call, begun, go_on) = hanging();
    let first = tokio::spawn({
        let pool = pool.clone();
        async move { pool.run(Some(key(1)), Abandoned::Skip, call).await }
    });
    tokio::task::spawn_blocking(move || begun.recv()).await.unwrap().unwrap();
    assert_eq!(pool.run(Some(key(2)), Abandoned::Skip, || Ok(2)).await.unwrap(), 2);
    let second = pool.run(Some(key(1)), Abandoned::Skip, || Ok(3));
    assert!(
        tokio::time::timeout(Duration::from_millis(50), second).await.is_err(),
        "the second call is queued behind the first"
    );
    go_on.send(()).unwrap();
    assert_eq!(first.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn an_abandoned_probe_is_skipped_but_a_release_runs() {
    let pool = pool();
    let (call, begun, go_on) = hanging();
    let (said, heard) = mpsc::channel();
    let first = tokio::spawn({
        let pool = pool.clone();
        async move { pool.run(Some(key(1)), Abandoned::Skip, call).await }
    });
    tokio::task::spawn_blocking(move || begun.recv()).await.unwrap().unwrap();
    for (what, abandoned) in [("probe", Abandoned::Skip), ("release", Abandoned::RunAnyway)] {
        let said = said.clone();
        let call = move || {
            said.send(what).expect("the test receives");
            Ok(())
        };
        let limit = Duration::from_millis(20);
        assert!(tokio::time::timeout(limit, pool.run(Some(key(1)), abandoned, call)).await.is_err());
    }
    first.abort();
    go_on.send(()).unwrap();
    let heard = tokio::task::spawn_blocking(move || heard.recv()).await.unwrap();
    assert_eq!(heard, Ok("release"));
}

#[tokio::test]
async fn threads_are_bounded_and_queued_calls_run_later() {
    let pool = pool();
    let hung: Vec<_> = (0..MAX_THREADS as u128 + 5)
        .map(|n| {
            let (call, begun, go_on) = hanging();
            let pool = pool.clone();
            (tokio::spawn(async move { pool.run(Some(key(n)), Abandoned::Skip, call).await }), begun, go_on)
        })
        .collect();
    tokio::task::yield_now().await;
    let one = tokio::time::timeout(Duration::from_millis(50), pool.run(None, Abandoned::Skip, || Ok(())));
    assert!(one.await.is_err(), "all threads are taken");
    assert_eq!(pool.shared.lock().threads, MAX_THREADS);
    for (task, _begun, go_on) in hung {
        let _ = go_on.send(());
        task.await.unwrap().unwrap();
    }
    pool.run(None, Abandoned::Skip, || Ok(())).await.unwrap();
}

#[tokio::test]
async fn a_panic_in_a_call_is_an_error_and_the_pool_survives() {
    let pool = pool();
    let panics = pool.run(Some(key(1)), Abandoned::Skip, || -> Result<(), Error> { panic!("a bug in a call") });
    let error = panics.await.unwrap_err();
    assert!(error.to_string().contains("panicked") && error.is_ambiguous(), "{error}");
    pool.run(Some(key(1)), Abandoned::Skip, || Ok(())).await.unwrap();
}

#[test]
// verifies: no-thread
fn a_release_runs_although_no_thread_can_be_started() {
    // A limit of processes binds neither this process alone, nor root.
    let exe = std::env::current_exe().expect("this program has a path");
    let ran = Command::new(exe)
        .args(["--exact", "io_pool::tests::child_without_threads", "--nocapture"])
        .env("ONELOCK_TEST_CHILD", "1")
        .output()
        .expect("this program runs again");
    let said = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && said.contains("CHILD RAN"), "{}:\n{said}", ran.status);
}

/// Returns how often the thread has begun to wait. `None` if it has ended.
fn waits_of(thread: &Path) -> Option<u64> {
    let status = fs::read_to_string(thread.join("status")).ok()?;
    let waits = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    waits.trim().parse().ok()
}

#[tokio::test]
async fn child_without_threads() {
    const SHORT: Duration = Duration::from_millis(20);
    if std::env::var_os("ONELOCK_TEST_CHILD").is_none() {
        return;
    }
    if geteuid().is_root() {
        setuid(Uid::from_raw(300_000 + std::process::id())).expect("root becomes another user");
    }
    let used = IoPool::with_idle_limit("efs:///mnt/efs".to_owned(), SHORT);
    let (call, begun, go_on) = hanging();
    let hung = tokio::spawn({
        let pool = used.clone();
        async move { pool.run(Some(key(1)), Abandoned::Skip, call).await }
    });
    tokio::task::yield_now().await;
    begun.recv().expect("a thread runs it");
    let itself = || fs::read_link("/proc/thread-self").map_err(|e| Error::new(ErrorKind::Other, e.to_string()));
    let link = used.run(Some(key(2)), Abandoned::Skip, itself).await.expect("another thread can be started");
    let idle = PathBuf::from("/proc").join(link);
    let before = waits_of(&idle).expect("the last idle thread stays");
    setrlimit(Resource::RLIMIT_NPROC, 1, 1).expect("a limit can be lowered");
    let fresh = pool().run(None, Abandoned::Skip, || Ok(())).await.expect_err("no thread can be started");
    assert!(fresh.to_string().contains("ulimit -u"), "{fresh}");

    let has_waited = || waits_of(&idle).is_none_or(|waits| waits >= before + 10);
    assert!(wait_for("time-outs of the idle thread", has_waited));
    let (said, heard) = mpsc::channel();
    used.leave(key(2), move || said.send(()).expect("the test receives"));
    let limit = Duration::from_secs(20);
    assert_eq!(heard.recv_timeout(limit), Ok(()), "no thread runs the release");
    go_on.send(()).expect("the call waits");
    hung.await.expect("it does not panic").expect("it returns");
    println!("CHILD RAN");
}

#[test]
fn the_threads_end_with_their_pool() {
    let short = IoPool::with_idle_limit("efs:///mnt/efs".to_owned(), Duration::from_millis(1));
    let (said, heard) = mpsc::channel::<()>();
    short.leave(key(1), || drop(said));
    assert!(heard.recv().is_err(), "it has run");
    let shared = Arc::downgrade(&short.shared);
    drop(short);
    assert!(wait_for("the end of the threads", || shared.strong_count() == 0));
}
