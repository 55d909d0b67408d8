//! Provokes errors of real file systems: each has its kind and advice, and none is reported as
//! contention.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
    time::Duration,
};

use crate::fixture::{
    OWN_MOUNTS, failed, grant, in_child, mount, name, open, refused, request, run_child, without_capabilities,
};
use lock_core::{
    Error, ErrorKind, Operation,
    backend::{Admin, Backend, ProcessBound, Release, Renewal},
};
use lock_efs::{FileBackend, FileConfig};

#[track_caller]
fn check(error: &Error, kind: ErrorKind, path: &Path, advice: &str) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    assert!(text.contains(path.to_str().unwrap()) && text.contains(advice), "{text}");
    assert!(!error.is_ambiguous(), "{text}");
}

/// Like [`check`], and the error names the operation, the lock and the store.
#[track_caller]
fn check_attempt(error: &Error, kind: ErrorKind, path: &Path, advice: &str) {
    check(error, kind, path, advice);
    assert_eq!(error.operation(), Some(Operation::Acquire));
    assert!(error.name().is_some() && error.store().is_some_and(|s| s.starts_with("file:///")), "{error}");
}

#[tokio::test]
async fn a_symbolic_link_at_the_lock_path_is_not_followed() {
    let (dir, backend) = open();
    let (path, target) = (backend.lock_path(&name("etl")), dir.path().join("target"));
    symlink(&target, &path).unwrap();
    check_attempt(&failed(&backend, "etl").await, ErrorKind::StoreNotReady, &path, "symbolic link");
    assert!(!target.exists());
}

#[tokio::test]
async fn a_symbolic_link_at_the_record_path_is_not_followed() {
    let (dir, backend) = open();
    let target = dir.path().join("precious");
    fs::write(&target, "precious").unwrap();
    symlink(&target, dir.path().join("etl.info")).unwrap();
    let error = failed(&backend, "etl").await;
    check_attempt(&error, ErrorKind::StoreNotReady, &dir.path().join("etl.info"), "symbolic link");
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    symlink(&target, dir.path().join("etl2.prev")).unwrap();
    let error = failed(&backend, "etl2").await;
    check_attempt(&error, ErrorKind::StoreNotReady, &dir.path().join("etl2.prev"), "symbolic link");
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
}

#[tokio::test]
async fn a_directory_or_pipe_at_a_path_is_named_in_the_error() {
    let (dir, backend) = open();
    let path = backend.lock_path(&name("etl"));
    fs::create_dir(&path).unwrap();
    check_attempt(&failed(&backend, "etl").await, ErrorKind::StoreNotReady, &path, "a directory is in the way");
    let record = dir.path().join("etl2.info");
    fs::create_dir(&record).unwrap();
    check_attempt(&failed(&backend, "etl2").await, ErrorKind::StoreNotReady, &record, "a directory is in the way");
    fs::remove_dir(&record).unwrap();
    grant(&backend, &request("etl2")).await;
    let pipe = backend.lock_path(&name("pipe"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    check_attempt(&failed(&backend, "pipe").await, ErrorKind::StoreNotReady, &pipe, "not a regular file");
}

#[tokio::test]
// verifies: obstacles
async fn a_pipe_at_the_record_path_does_not_block() {
    let (dir, backend) = open();
    assert!(Command::new("mkfifo").arg(dir.path().join("etl.info")).status().unwrap().success());
    assert_eq!(backend.inspect(&name("etl")).await.unwrap(), None);
    let error = failed(&backend, "etl").await;
    check_attempt(&error, ErrorKind::StoreNotReady, &dir.path().join("etl.info"), "not a regular file");
}

#[tokio::test]
// verifies: file-system
async fn a_removed_directory_is_named_and_usable_once_recreated() {
    let (dir, backend) = open();
    let (_, lease) = grant(&backend, &request("etl")).await;
    fs::remove_dir_all(dir.path()).unwrap();
    check_attempt(&failed(&backend, "x").await, ErrorKind::StoreNotReady, &dir.path().join("x.lock"), "is gone");
    check(&backend.list("").await.unwrap_err(), ErrorKind::StoreNotReady, dir.path(), "check the path");
    check(&backend.inspect(&name("x")).await.unwrap_err(), ErrorKind::StoreNotReady, dir.path(), "check the path");
    assert!(matches!(backend.renew(&lease).await.unwrap(), Renewal::Lost(_)));
    fs::write(dir.path(), "a file").unwrap();
    check_attempt(&failed(&backend, "x").await, ErrorKind::StoreNotReady, &dir.path().join("x.lock"), "is gone");
    fs::remove_file(dir.path()).unwrap();
    fs::create_dir(dir.path()).unwrap();
    grant(&backend, &request("x")).await;
}

#[test]
fn opening_reports_the_defect_of_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    check(&FileBackend::open(&file).unwrap_err(), ErrorKind::StoreNotReady, &file, "not a directory");
    let below = file.join("below");
    check(&FileBackend::open(&below).unwrap_err(), ErrorKind::StoreNotReady, &below, "");
    let missing = dir.path().join("missing");
    let error = FileConfig::new(&missing).create(false).build().unwrap_err();
    check(&error, ErrorKind::StoreNotReady, &missing, "create it or mount it");
    assert!(!missing.exists());
    assert_eq!(FileBackend::open("").unwrap_err().kind(), ErrorKind::Config);
}

#[tokio::test]
async fn a_path_too_long_is_a_configuration_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut deep = dir.path().to_owned();
    // A path has at most 4,096 bytes: enough for the short name below, but not for the long one.
    while deep.as_os_str().len() < 3900 {
        deep.push("d".repeat((3900 - deep.as_os_str().len()).min(200)));
    }
    let backend = FileBackend::open(&deep).unwrap();
    grant(&backend, &request("short")).await;
    check_attempt(&failed(&backend, &"x".repeat(250)).await, ErrorKind::Config, &deep, "too long");
}

#[test]
fn a_missing_permission_is_named() {
    let dir = tempfile::tempdir().unwrap();
    run_child(without_capabilities(), "errors::child_without_permission", dir.path());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn child_without_permission() {
    let Some(dir) = in_child() else { return };
    let backend = FileBackend::open(&dir).unwrap();
    let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let path = backend.lock_path(&name("foreign"));
    fs::write(&path, "").unwrap();
    chmod(&path, 0o444);
    check_attempt(&failed(&backend, "foreign").await, ErrorKind::PermissionDenied, &path, "this user lacks permission");
    let record = path.with_extension("info");
    chmod(&path, 0o600);
    fs::write(&record, "").unwrap();
    chmod(&record, 0);
    check_attempt(
        &failed(&backend, "foreign").await,
        ErrorKind::PermissionDenied,
        &record,
        "this user lacks permission",
    );
    chmod(&dir, 0o500);
    check_attempt(
        &failed(&backend, "etl").await,
        ErrorKind::PermissionDenied,
        &dir.join("etl.lock"),
        "write access to the directory",
    );
    let below = dir.join("below");
    let error = failed(&FileBackend::open(&below).unwrap(), "etl").await;
    check_attempt(&error, ErrorKind::PermissionDenied, &below, "write access");
    println!("CHILD RAN");
}

#[test]
// verifies: full-disk
fn a_full_disk_keeps_no_existing_lock_from_being_taken() {
    let dir = tempfile::tempdir().unwrap();
    run_child(OWN_MOUNTS, "errors::child_on_a_full_disk", dir.path());
}

#[tokio::test]
async fn child_on_a_full_disk() {
    let Some(dir) = in_child() else { return };
    mount(&["-t", "tmpfs", "-o", "size=64k,nr_inodes=32", "none"], &dir);
    let backend = FileBackend::open(&dir).unwrap();
    let (before, lease) = grant(&backend, &request("etl")).await;
    let by_flock = backend.lock_path(&name("by-flock"));
    fs::write(&by_flock, "").unwrap();
    let ballast = dir.join("ballast");
    let _ = fs::write(&ballast, vec![0; 100_000]);
    // A held lock stays held and can be released, which needs no space.
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);

    // The previous record is overwritten.
    let (second, lease) = grant(&backend, &request("etl").with_owner("etl-7")).await;
    assert!(second.token > before.token && second.crashed.is_none());
    assert_eq!(refused(&backend, "etl").await.owner.as_deref(), Some("etl-7"));
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    let error = backend.acquire(&request("etl").with_data(vec![b'd'; 10_000])).await.unwrap_err();
    check_attempt(&error, ErrorKind::Full, &dir, "file system is full");

    // Without a record the clock alone makes tokens rise, also above those that are reserved.
    let (first, lease) = grant(&backend, &request("by-flock").with_reserved_tokens(50_000)).await;
    assert!(refused(&backend, "by-flock").await.foreign.is_some());
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    let (next, lease) = grant(&backend, &request("by-flock")).await;
    assert!(next.token > first.token && next.crashed.is_none());
    let error = backend.release(&lease, Duration::from_secs(60)).await.unwrap_err();
    check(&error, ErrorKind::Other, &by_flock, "minimum hold");

    fs::remove_file(&ballast).unwrap();
    for (text, last) in [("etl", second), ("by-flock", next)] {
        let (after, _) = grant(&backend, &request(text)).await;
        assert!(after.token > last.token && after.crashed.is_none(), "{text}");
    }
    for i in 0..40 {
        let _ = fs::write(dir.join(format!("inode{i}")), "");
    }
    check_attempt(&failed(&backend, "other").await, ErrorKind::Full, &dir.join("other.lock"), "inodes");
    println!("CHILD RAN");
}

/// An unrecorded token ahead of the clock would be given twice.
#[test]
// verifies: full-disk
fn a_full_disk_never_gives_a_token_twice() {
    let dir = tempfile::tempdir().unwrap();
    run_child(OWN_MOUNTS, "errors::child_with_a_floor_ahead", dir.path());
}

#[tokio::test]
async fn child_with_a_floor_ahead() {
    let Some(dir) = in_child() else { return };
    mount(&["-t", "tmpfs", "-o", "size=64k,nr_inodes=32", "none"], &dir);
    let backend = FileBackend::open(&dir).unwrap();
    fs::write(dir.join(".onelock-floor"), "onelock/1 floor 09000000000000000\n").unwrap();
    fs::write(backend.lock_path(&name("etl")), "").unwrap();
    let _ = fs::write(dir.join("ballast"), vec![0; 100_000]);
    check_attempt(&failed(&backend, "etl").await, ErrorKind::Full, &dir, "file system is full");
    fs::remove_file(dir.join("ballast")).unwrap();
    assert_eq!(grant(&backend, &request("etl")).await.0.token.unwrap().get(), 9_000_000_000_000_001);
    println!("CHILD RAN");
}

#[test]
fn a_read_only_file_system_is_named() {
    let dir = tempfile::tempdir().unwrap();
    run_child(OWN_MOUNTS, "errors::child_on_a_read_only_file_system", dir.path());
}

#[tokio::test]
async fn child_on_a_read_only_file_system() {
    let Some(dir) = in_child() else { return };
    mount(&["-t", "tmpfs", "none"], &dir);
    let backend = FileBackend::open(&dir).unwrap();
    grant(&backend, &request("held")).await;
    // A bind mount, because a file system with files open for writing cannot be remounted
    // read-only.
    mount(&["--bind", dir.to_str().unwrap()], &dir);
    mount(&["-o", "remount,bind,ro"], &dir);
    check_attempt(&failed(&backend, "held").await, ErrorKind::Full, &dir.join("held.lock"), "read-only");
    let reader = FileBackend::open(&dir).unwrap();
    assert_eq!(reader.list("").await.unwrap().locks.len(), 1, "listing needs no write access");
    println!("CHILD RAN");
}

#[test]
// verifies: file-system
fn too_many_open_files_is_a_retryable_limit() {
    let dir = tempfile::tempdir().unwrap();
    run_child(&["sh", "-c", "ulimit -n 40; exec \"$0\" \"$@\""], "errors::child_with_few_descriptors", dir.path());
}

#[tokio::test]
async fn child_with_few_descriptors() {
    let Some(dir) = in_child() else { return };
    let backend = FileBackend::open(&dir).unwrap();
    let (_, kept) = grant(&backend, &request("kept")).await;
    let mut all = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        all.push(file);
    }
    // With no descriptor left the lock file cannot be opened. With one left its record cannot.
    for left in [0, 1] {
        let error = failed(&backend, "etl").await;
        check_attempt(&error, ErrorKind::Limit, &dir, "ulimit -n");
        assert!(error.is_retryable(), "with {left} descriptors left");
        all.pop();
    }
    assert!(backend.release_now(&kept, Duration::ZERO));
    all.clear();
    grant(&backend, &request("etl")).await;
    refused(&backend, "etl").await;
    println!("CHILD RAN");
}

#[tokio::test]
async fn efs_refuses_local_directories_unless_allow_local_is_set() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("locks");
    let registry = lock_core::Registry::new().with(lock_efs::FileFactory);
    let error = registry.open(&format!("efs://{}", missing.display())).await.unwrap_err();
    check(&error, ErrorKind::StoreNotReady, &missing, "allow_local=true");
    assert!(!missing.exists(), "no directory is created if the mount is missing");
    let locker = registry.open(&format!("efs://{}?allow_local=true", missing.display())).await.unwrap();
    drop(locker.acquire("etl").await.unwrap());
}
