//! Another program's file beside a lock is never changed or removed.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use crate::fixture::{failed, grant, name, open, refused, request};
use lock_core::{
    ErrorKind,
    backend::{Admin, Backend, ProcessBound, Release, Renewal},
};
use lock_efs::{FileConfig, Sweep};

const MINE: &str = "mine, not yours\n";

/// Everything about a file that a change would show.
fn state(path: &Path) -> (String, u64, u32, u64) {
    let found = fs::metadata(path).unwrap();
    (fs::read_to_string(path).unwrap(), found.ino(), found.mode(), found.nlink())
}

#[tokio::test]
// verifies: not-ours
async fn a_strangers_record_is_an_error_before_it_is_changed() {
    for suffix in ["info", "prev"] {
        let (dir, backend) = open();
        let path = dir.path().join(format!("etl.{suffix}"));
        fs::write(&path, MINE).unwrap();
        let before = state(&path);
        let error = failed(&backend, "etl").await;
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::StoreNotReady, false), "{error}");
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()) && text.contains("move it away"), "{text}");
        assert_eq!(state(&path), before);
        // The lock is free, and other names work.
        assert_eq!(backend.inspect(&name("etl")).await.unwrap(), None);
        grant(&backend, &request("other")).await;
        fs::remove_file(&path).unwrap();
        grant(&backend, &request("etl")).await;
    }
}

#[tokio::test]
async fn an_empty_or_torn_file_of_a_crash_is_used_again() {
    for (suffix, left) in [("info", ""), ("prev", ""), ("info", "onelo"), ("prev", "onelock/1 held"), ("queue", "")] {
        let (dir, backend) = open();
        fs::write(dir.path().join(format!("etl.{suffix}")), left).unwrap();
        let (_, lease) = grant(&backend, &request("etl")).await;
        assert!(refused(&backend, "etl").await.owner.is_some());
        assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    }
}

#[tokio::test]
// verifies: not-ours
async fn a_record_overwritten_by_its_user_survives_the_release() {
    let (dir, backend) = open();
    let path = dir.path().join("etl.info");
    for hold in [Duration::ZERO, Duration::from_secs(3_600)] {
        let (_, lease) = grant(&backend, &request("etl")).await;
        fs::write(&path, MINE).unwrap();
        let before = state(&path);
        assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
        let token = lease.token.unwrap().get() + 1_000_000;
        let advanced = backend.advance_token(&lease, lock_core::FencingToken::new(token).unwrap()).await;
        assert!(advanced.unwrap_err().to_string().contains(path.to_str().unwrap()));
        let released = backend.release(&lease, hold).await;
        assert_eq!(released.is_ok(), hold.is_zero(), "a minimum hold that is not recorded is an error");
        assert_eq!(state(&path), before);
        fs::remove_file(&path).unwrap();
    }
}

#[tokio::test]
// verifies: not-ours
async fn a_sweep_keeps_names_beside_a_strangers_file() {
    for suffix in ["lock", "info", "prev", "queue"] {
        let (dir, backend) = open();
        for text in ["etl", "other"] {
            let (_, lease) = grant(&backend, &request(text)).await;
            assert!(backend.release_now(&lease, Duration::ZERO));
        }
        let path = dir.path().join(format!("etl.{suffix}"));
        fs::write(&path, MINE).unwrap();
        let before = state(&path);
        let swept = backend.sweep(Sweep::new(Duration::ZERO)).unwrap();
        assert_eq!(swept.removed, [backend.lock_path(&name("other"))], "{suffix}");
        assert_eq!(swept.kept, 1, "{suffix}");
        assert_eq!(state(&path), before, "{suffix}");
        assert!(dir.path().join("etl.lock").exists() && dir.path().join("etl.info").exists(), "{suffix}");
    }
}

#[tokio::test]
// verifies: not-ours
async fn a_strangers_floor_stops_a_sweep_and_new_names() {
    let (dir, backend) = open();
    let (_, lease) = grant(&backend, &request("etl")).await;
    assert!(backend.release_now(&lease, Duration::ZERO));
    let path = dir.path().join(".onelock-floor");
    fs::write(&path, MINE).unwrap();
    let before = state(&path);
    let error = backend.sweep(Sweep::new(Duration::ZERO)).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(failed(&backend, "new").await.to_string().contains(path.to_str().unwrap()));
    grant(&backend, &request("etl")).await;
    assert_eq!(state(&path), before);
}

#[tokio::test]
// verifies: not-ours
async fn a_strangers_temp_record_survives_a_sweep() {
    let (dir, backend) = open();
    let old = std::time::SystemTime::now() - Duration::from_secs(7 * 24 * 3600);
    let paths = [(MINE, true), ("", false), ("onelock/1 torn", false)].map(|(text, stays)| {
        let path = dir.path().join(format!(".onelock-{:032x}", text.len()));
        fs::write(&path, text).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        (path, stays)
    });
    let _ = backend.sweep(Sweep::new(Duration::ZERO)).unwrap();
    for (path, stays) in paths {
        assert_eq!(path.exists(), stays, "{}", path.display());
    }
}

#[tokio::test]
// verifies: not-ours
async fn a_strangers_lock_file_keeps_its_content_and_mode() {
    let dir = tempfile::tempdir().unwrap();
    let backend = FileConfig::new(dir.path()).mode(0o666).build().unwrap();
    let path = backend.lock_path(&name("etl"));
    fs::write(&path, MINE).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let before = state(&path);
    let (_, lease) = grant(&backend, &request("etl")).await;
    refused(&backend, "etl").await;
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    let _ = backend.sweep(Sweep::new(Duration::ZERO)).unwrap();
    assert_eq!(state(&path), before);
}

/// A waiter without a queue polls.
#[cfg(target_os = "linux")]
#[tokio::test]
// verifies: not-ours
async fn a_strangers_queue_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let backend = FileConfig::new(dir.path()).mode(0o666).build().unwrap();
    let path = dir.path().join("etl.queue");
    fs::write(&path, MINE).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let before = state(&path);
    let (_, lease) = grant(&backend, &request("etl")).await;
    let error = backend.watch(&name("etl")).await.err().unwrap();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    let locker = lock_core::Locker::new(lock_efs::FileBackend::open(dir.path()).unwrap()).unwrap();
    let waiter = tokio::spawn(async move { locker.acquire("etl").await.map(drop) });
    tokio::task::yield_now().await;
    assert!(backend.release_now(&lease, Duration::ZERO));
    waiter.await.unwrap().unwrap();
    assert_eq!(state(&path), before);
}

/// Backups make second names of files (`cp -al`).
#[tokio::test]
// verifies: not-ours
async fn a_second_name_of_a_record_keeps_its_content() {
    let (dir, backend) = open();
    let kept = tempfile::tempdir_in(dir.path()).unwrap();
    for round in 0..4 {
        let (_, lease) = grant(&backend, &request("etl")).await;
        assert!(backend.release_now(&lease, Duration::ZERO));
        for suffix in ["info", "prev"] {
            let copy = kept.path().join(format!("{round}.{suffix}"));
            let _ = fs::hard_link(dir.path().join(format!("etl.{suffix}")), copy);
        }
    }
    let copies: Vec<_> = fs::read_dir(kept.path()).unwrap().map(|entry| state(&entry.unwrap().path())).collect();
    let (_, lease) = grant(&backend, &request("etl")).await;
    assert!(backend.release_now(&lease, Duration::ZERO));
    let after: Vec<_> = fs::read_dir(kept.path()).unwrap().map(|entry| state(&entry.unwrap().path())).collect();
    let texts = |states: &[(String, u64, u32, u64)]| states.iter().map(|s| s.0.clone()).collect::<Vec<_>>();
    assert_eq!(texts(&after), texts(&copies));
}
