//! Questions about locks change nothing, and need no permission to write.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    num::NonZeroU16,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::fixture::{grant, in_child, name, request, run_child, without_capabilities};
use lock_core::{
    Error, ErrorKind, Mode,
    backend::{AcquireOutcome, Admin, Backend, Level},
};
use lock_efs::{FileBackend, FileConfig, Sweep};

#[track_caller]
fn names_the_directory(error: &Error, directory: &Path) {
    assert_eq!(error.kind(), ErrorKind::StoreNotReady, "{error}");
    assert!(error.to_string().contains(&format!("{} does not exist", directory.display())), "{error}");
}

#[tokio::test]
// verifies: asking
async fn questions_about_a_missing_directory_do_not_create_it() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("a/mistyped");
    let backend = FileConfig::new(&missing).mode(0o660).build().unwrap();
    names_the_directory(&backend.list("").await.unwrap_err(), &missing);
    names_the_directory(&backend.inspect(&name("etl")).await.unwrap_err(), &missing);
    let findings = backend.diagnose().await;
    let note = findings.iter().find(|finding| finding.text.contains("does not exist yet")).unwrap();
    assert!(note.level == Level::Note && findings.iter().all(|finding| finding.level != Level::Unfit), "{findings:?}");
    assert!(backend.sweep(Sweep::new(Duration::ZERO)).is_err());
    assert!(!missing.parent().unwrap().exists());

    grant(&backend, &request("etl")).await;
    assert_eq!(fs::metadata(&missing).unwrap().permissions().mode() & 0o7777, 0o2770);
    assert_eq!(backend.list("").await.unwrap().locks.len(), 1);
    assert_eq!(backend.inspect(&name("other")).await.unwrap(), None);
}

#[tokio::test]
// verifies: asking
async fn a_dry_run_of_a_sweep_creates_no_file() {
    let (dir, backend) = crate::fixture::open();
    let _ = backend.sweep(Sweep::new(Duration::ZERO).dry_run(true)).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Returns the name and the bytes of each file.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[tokio::test]
// verifies: asking
async fn questions_create_no_file_although_they_could() {
    let (dir, holder) = crate::fixture::open();
    let shared = request("readers").with_mode(Mode::Shared);
    let permit = request("permits").with_mode(Mode::Permit { of: NonZeroU16::new(3).unwrap() });
    for request in [request("etl"), shared, permit] {
        grant(&holder, &request).await;
    }
    let (_, lease) = grant(&holder, &request("free")).await;
    let _ = holder.release(&lease, Duration::ZERO).await.unwrap();
    let before = files(dir.path());
    let made = |suffix: &str| before.keys().filter(|path| path.to_string_lossy().ends_with(suffix)).count();
    assert_eq!((made(".parts"), made(".fair"), made(".queue")), (2, 0, 0), "{:?}", before.keys());
    let monitor = FileBackend::open(dir.path()).unwrap();
    for asked in ["etl", "readers", "permits", "free", "none"] {
        let _ = monitor.inspect(&name(asked)).await.unwrap();
        let _ = monitor.last_holder(&name(asked)).await.unwrap();
    }
    assert_eq!(monitor.list("").await.unwrap().locks.len(), 3);
    assert_eq!(files(dir.path()), before);
}

#[test]
// verifies: asking
fn a_reader_without_write_permission_sees_all_locks() {
    let dir = tempfile::tempdir().unwrap();
    run_child(without_capabilities(), "asking::child_may_only_read", dir.path());
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn child_may_only_read() {
    let Some(dir) = in_child() else { return };
    let holder = FileBackend::open(&dir).unwrap();
    grant(&holder, &request("etl").with_owner("etl-7")).await;
    grant(&holder, &request(&"long/".repeat(200))).await;
    let shared = |owner: &str| request("readers").with_mode(Mode::Shared).with_owner(owner);
    let of = NonZeroU16::new(3).unwrap();
    let permit = |owner: &str| request("permits").with_mode(Mode::Permit { of }).with_owner(owner);
    for request in [shared("r1"), shared("r2"), permit("p1"), permit("p2")] {
        grant(&holder, &request).await;
    }
    // A queue behind a lock that is held, and one of a lock that is free.
    let (_, freed) = grant(&holder, &request("queue")).await;
    for name in ["etl", "queue"] {
        let waiter = request(name).with_waits(true).with_fair(true).with_owner("waiter");
        assert!(matches!(holder.acquire(&waiter).await.unwrap(), AcquireOutcome::Contended(_)));
    }
    let _ = holder.release(&freed, Duration::ZERO).await.unwrap();
    let before = files(&dir);
    for entry in fs::read_dir(&dir).unwrap() {
        fs::set_permissions(entry.unwrap().path(), Permissions::from_mode(0o400)).unwrap();
    }
    fs::set_permissions(&dir, Permissions::from_mode(0o500)).unwrap();
    let reader = FileBackend::open(&dir).unwrap();
    assert_eq!(reader.inspect(&name("etl")).await.unwrap().unwrap().owner.as_deref(), Some("etl-7"));
    assert_eq!(reader.inspect(&name("free")).await.unwrap(), None);
    assert_eq!(reader.inspect(&name("queue")).await.unwrap(), None, "a place is no holder");
    for (held, owners) in [("readers", ["r1", "r2"]), ("permits", ["p1", "p2"])] {
        let found = reader.inspect(&name(held)).await.unwrap().unwrap();
        let mut found: Vec<_> = std::iter::once(&found).chain(&found.others).map(|h| h.owner.as_deref()).collect();
        found.sort();
        assert_eq!(found, owners.map(Some), "{held}");
    }
    let listing = reader.list("").await.unwrap();
    assert_eq!(listing.odd(), [], "all can be read");
    let listed: Vec<_> = listing.locks.iter().map(|(name, holder)| (name.as_str(), holder.count())).collect();
    let long = "long/".repeat(200);
    assert_eq!(listed, [("etl", 1), (&*long, 1), ("permits", 2), ("readers", 2)]);
    assert_eq!(files(&dir), before);
    println!("CHILD RAN");
}
