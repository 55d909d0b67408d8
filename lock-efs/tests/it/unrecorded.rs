//! Shared locks whose holders cannot be recorded: on a full disk, and in a directory of another
//! user.

use std::{fs, num::NonZeroU16, os::unix::fs::PermissionsExt, path::Path, time::Duration};

#[cfg(target_os = "linux")]
use crate::fixture::lock_byte;
use crate::fixture::{
    OWN_MOUNTS, failed, grant, in_child, mount, name, refused, request, run_child, without_capabilities,
};
use lock_core::{
    ErrorKind, Mode,
    backend::{AcquireOutcome, AcquireRequest, Backend, Lease, ProcessBound as _, Release, Renewal},
};
use lock_efs::{FileBackend, FileConfig, Names};

fn reader(text: &str) -> AcquireRequest {
    request(text).with_mode(Mode::Shared)
}

fn permit(text: &str) -> AcquireRequest {
    request(text).with_mode(Mode::Permit { of: NonZeroU16::new(2).unwrap() })
}

async fn free(backend: &FileBackend, lease: &Lease) {
    assert_eq!(backend.release(lease, Duration::ZERO).await.unwrap(), Release::Released);
}

/// Two readers share the lock `text`, and exclude the other modes.
async fn is_shared(backend: &FileBackend, text: &str) {
    let (first, one) = grant(backend, &reader(text)).await;
    let (second, two) = grant(backend, &reader(text)).await;
    assert!(first.token < second.token, "{text}");
    for lease in [&one, &two] {
        assert_eq!(backend.renew(lease).await.unwrap(), Renewal::Renewed, "{text}");
    }
    refused(backend, text).await;
    match backend.acquire(&permit(text)).await {
        Ok(outcome) => assert!(matches!(outcome, AcquireOutcome::Contended(_)), "{text}: {outcome:?}"),
        Err(error) => assert!(matches!(error.kind(), ErrorKind::Full | ErrorKind::PermissionDenied), "{error}"),
    }
    free(backend, &one).await;
    refused(backend, text).await;
    free(backend, &two).await;
    let (writer, lease) = grant(backend, &request(text)).await;
    assert!(second.token < writer.token && writer.crashed.is_none(), "{text}");
    free(backend, &lease).await;
}

#[test]
// verifies: full-disk, P12
fn a_full_disk_keeps_no_reader_out() {
    let dir = tempfile::tempdir().unwrap();
    run_child(OWN_MOUNTS, "unrecorded::child_on_a_full_disk", dir.path());
}

#[tokio::test]
async fn child_on_a_full_disk() {
    let Some(dir) = in_child() else { return };
    mount(&["-t", "tmpfs", "-o", "size=64k,nr_inodes=40", "none"], &dir);
    let backend = FileBackend::open(&dir).unwrap();
    for used in [request("exclusive"), reader("shared"), reader("last-shared"), permit("permits")] {
        let (_, lease) = grant(&backend, &used).await;
        free(&backend, &lease).await;
    }
    for new in ["by-flock", "without-inodes"] {
        fs::write(backend.lock_path(&name(new)), "").unwrap();
    }
    backend.on_lost(&grant(&backend, &request("crashed")).await.1);
    let _ = fs::write(dir.join("ballast"), vec![0; 100_000]);
    assert_eq!(failed_permit(&backend, "crashed").await, ErrorKind::Full);
    let (next, lease) = grant(&backend, &request("crashed")).await;
    assert!(next.crashed.is_some(), "a failed permit hid the crash");
    free(&backend, &lease).await;
    // The record of a lock that was shared has room for an exclusive holder.
    let (_, lease) = grant(&backend, &request("last-shared").with_owner("o".repeat(200))).await;
    free(&backend, &lease).await;
    for text in ["exclusive", "shared", "permits", "by-flock"] {
        is_shared(&backend, text).await;
    }
    assert_eq!(failed_permit(&backend, "by-flock").await, ErrorKind::Full, "the number of permits must be known");
    for i in 0..60 {
        let _ = fs::write(dir.join(format!("inode{i}")), "");
    }
    is_shared(&backend, "without-inodes").await;
    assert!(!dir.join("without-inodes.parts").exists());
    assert_eq!(failed(&backend, "new").await.kind(), ErrorKind::Full);
    println!("CHILD RAN");
}

async fn failed_permit(backend: &FileBackend, text: &str) -> ErrorKind {
    backend.acquire(&permit(text)).await.unwrap_err().kind()
}

/// As with `flock -s`.
#[test]
// verifies: foreign-client, P12
fn a_file_in_a_directory_of_another_user_can_be_shared() {
    let dir = tempfile::tempdir().unwrap();
    run_child(without_capabilities(), "unrecorded::child_in_a_directory_of_another_user", dir.path());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn child_in_a_directory_of_another_user() {
    let Some(dir) = in_child() else { return };
    fs::write(dir.join("job.lock"), "").unwrap();
    let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    chmod(&dir, 0o555);
    let backend = FileConfig::new(&dir).names(Names::Plain).build().unwrap();
    is_shared(&backend, "job.lock").await;
    assert_eq!(failed_permit(&backend, "job.lock").await, ErrorKind::PermissionDenied);
    // A file of the parts that this user may not open can have holders of permits.
    chmod(&dir, 0o755);
    fs::write(dir.join("job.parts"), "onelock/1 parts\n").unwrap();
    chmod(&dir.join("job.parts"), 0o000);
    chmod(&dir, 0o555);
    let error = backend.acquire(&reader("job.lock")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("job.parts"), "{error}");
    // A request that waits for readers leaves no mark in a file of theirs.
    chmod(&dir, 0o755);
    let owner = FileConfig::new(&dir).names(Names::Plain).build().unwrap();
    let (_, reading) = grant(&owner, &reader("report.lock")).await;
    chmod(&dir.join("report.parts"), 0o444);
    chmod(&dir, 0o555);
    let waiting = request("report.lock").with_waits(true);
    let outcome = backend.acquire(&waiting).await.unwrap();
    assert!(matches!(outcome, AcquireOutcome::Contended(_)), "{outcome:?}");
    free(&owner, &reading).await;
    println!("CHILD RAN");
}

#[test]
// verifies: P9
fn a_crash_before_a_lock_without_a_record_is_told_at_most_once() {
    let dir = tempfile::tempdir().unwrap();
    run_child(without_capabilities(), "unrecorded::child_after_crashes", dir.path());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn child_after_crashes() {
    let Some(dir) = in_child() else { return };
    let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let backend = FileConfig::new(&dir).names(Names::Plain).build().unwrap();
    for (text, mode, record, holders) in
        [("alone", Mode::Exclusive, "alone.info", 1), ("several", Mode::Shared, "several.parts", 2)]
    {
        let (lock, record) = (format!("{text}.lock"), dir.join(record));
        // A crash that can be marked is told once. A later holder is told of one that cannot be.
        for may_write in [true, false] {
            let mut crashed = Vec::new();
            for _ in 0..holders {
                crashed.push(grant(&backend, &request(&lock).with_mode(mode)).await.1);
            }
            crashed.iter().for_each(|lease| backend.on_lost(lease));
            chmod(&record, if may_write { 0o644 } else { 0o444 });
            chmod(&dir, 0o555);
            for is_told in [may_write, false] {
                let (next, lease) = grant(&backend, &request(&lock)).await;
                assert_eq!(
                    next.crashed.map_or(0, |holder| holder.count()),
                    if is_told { holders } else { 0 },
                    "{lock}"
                );
                free(&backend, &lease).await;
            }
            chmod(&dir, 0o755);
            chmod(&record, 0o644);
            let (next, lease) = grant(&backend, &request(&lock)).await;
            assert_eq!(next.crashed.is_some(), !may_write, "{lock}");
            free(&backend, &lease).await;
        }
    }
    println!("CHILD RAN");
}

/// A client that is told of some of the crashes hides the others.
#[cfg(target_os = "linux")]
#[test]
// verifies: P9
fn crashed_readers_are_all_marked_or_none() {
    let dir = tempfile::tempdir().unwrap();
    run_child(without_capabilities(), "unrecorded::child_marks_crashed_readers", dir.path());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn child_marks_crashed_readers() {
    let Some(dir) = in_child() else { return };
    let backend = FileConfig::new(&dir).names(Names::Plain).build().unwrap();
    let crashed = [grant(&backend, &reader("job.lock")).await.1, grant(&backend, &reader("job.lock")).await.1];
    crashed.iter().for_each(|lease| backend.on_lost(lease));
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).unwrap();
    for (is_locked, told) in [(true, None), (false, Some(2)), (false, None)] {
        let parts = fs::File::options().read(true).write(true).open(dir.join("job.parts")).unwrap();
        if is_locked {
            // The second part, as an NFS server keeps it for a client that is gone.
            lock_byte(&parts, 17);
        }
        let (next, lease) = grant(&backend, &request("job.lock")).await;
        assert_eq!(next.crashed.map(|holder| holder.count()), told, "locked: {is_locked}");
        free(&backend, &lease).await;
    }
    println!("CHILD RAN");
}

#[test]
// verifies: P12
fn a_reader_without_a_part_respects_a_queue_and_a_minimum_hold() {
    let dir = tempfile::tempdir().unwrap();
    run_child(without_capabilities(), "unrecorded::child_behind_a_queue", dir.path());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn child_behind_a_queue() {
    let Some(dir) = in_child() else { return };
    let backend = FileConfig::new(&dir).names(Names::Plain).build().unwrap();
    let (_, kept) = grant(&backend, &request("kept.lock")).await;
    let (_, held) = grant(&backend, &request("queued.lock")).await;
    let waiting = request("queued.lock").with_waits(true).with_fair(true);
    assert!(matches!(backend.acquire(&waiting).await.unwrap(), AcquireOutcome::Contended(_)));
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).unwrap();
    assert_eq!(backend.release(&kept, Duration::from_secs(600)).await.unwrap(), Release::Released);
    free(&backend, &held).await;
    for refused in [reader("kept.lock"), reader("queued.lock")] {
        let outcome = backend.acquire(&refused).await.unwrap();
        assert!(matches!(outcome, AcquireOutcome::Contended(_)), "{}: {outcome:?}", refused.name);
    }
    free(&backend, &grant(&backend, &waiting).await.1).await;
    free(&backend, &grant(&backend, &reader("queued.lock")).await.1).await;
    println!("CHILD RAN");
}
