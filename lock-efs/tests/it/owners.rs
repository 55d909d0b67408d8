//! Several users share a directory, whatever the umask of the process that comes first.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::Command,
    time::Duration,
};

use crate::fixture::{Process, failed, grant, in_child, is_root, myself, refused, request, run_child};
use lock_core::{
    ErrorKind,
    backend::{Admin, ProcessBound},
};
use lock_efs::{FileBackend, FileConfig, Sweep};

const USER: u32 = 54_321;
const OTHER: u32 = 54_322;
const GROUP: u32 = 54_320;

/// Runs a test of this binary as `user` in the group, with the umask 077.
fn run_as(user: u32, test: &str, directory: &Path) {
    let ids = format!("--reuid={user} --regid={user} --groups={user},{GROUP}");
    let command = myself(test, directory);
    let script = format!("umask 077; exec setpriv {ids} \"$@\"");
    let out = Command::new("sh").args(["-c", &script, "sh"]).args(&command).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("CHILD RAN"), "user {user}:\n{text}");
}

/// Uses the lock `etl`, sweeps it away, and uses it and another name again.
async fn use_all(backend: &FileBackend, own: &str) {
    for text in ["etl", "etl", own] {
        let (_, lease) = grant(backend, &request(text)).await;
        backend.list("").await.unwrap();
        assert!(backend.release_now(&lease, Duration::ZERO));
    }
}

#[tokio::test]
async fn child_uses_all_with_default_mode() {
    let Some(dir) = in_child() else { return };
    use_all(&FileBackend::open(dir).unwrap(), &format!("of-{}", nix::unistd::geteuid())).await;
    println!("CHILD RAN");
}

#[tokio::test]
async fn child_uses_all_with_group_mode() {
    let Some(dir) = in_child() else { return };
    let backend = FileConfig::new(dir).mode(0o660).build().unwrap();
    use_all(&backend, &format!("of-{}", nix::unistd::geteuid())).await;
    println!("CHILD RAN");
}

#[tokio::test]
async fn child_sweeps() {
    let Some(dir) = in_child() else { return };
    let _ = FileBackend::open(dir).unwrap().sweep(Sweep::new(Duration::ZERO)).unwrap();
    println!("CHILD RAN");
}

/// A directory that all users of the tests can reach.
fn directory(owner: u32, group: u32, mode: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    chown(dir.path(), Some(owner), Some(group)).unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
    dir
}

#[test]
// verifies: shared-directory
fn one_run_by_root_does_not_lock_a_user_out() {
    if !is_root() {
        return eprintln!("only root can run processes of other users");
    }
    let dir = directory(USER, USER, 0o700);
    // Root comes first, between, and to sweep.
    for test in ["child_uses_all_with_default_mode", "child_sweeps"] {
        run_as(0, &format!("owners::{test}"), dir.path());
        run_as(USER, "owners::child_uses_all_with_default_mode", dir.path());
        for entry in fs::read_dir(dir.path()).unwrap() {
            let found = entry.unwrap().metadata().unwrap();
            assert_eq!((found.uid(), found.gid()), (USER, USER));
        }
    }
    let mode = |file: &str| fs::metadata(dir.path().join(file)).unwrap().mode() & 0o777;
    assert_eq!([mode("etl.lock"), mode("etl.info"), mode(".onelock-floor")], [0o600, 0o600, 0o644]);
}

/// `chgrp`, mode 770 without the set-group-ID bit, and `mode=660`.
#[test]
// verifies: shared-directory
fn a_group_shares_a_directory_by_the_documented_recipe() {
    if !is_root() {
        return eprintln!("only root can run processes of other users");
    }
    for test in ["child_uses_all_with_group_mode", "child_uses_all_with_default_mode"] {
        let dir = directory(0, GROUP, 0o770);
        for user in [USER, OTHER, 0, USER] {
            run_as(user, &format!("owners::{test}"), dir.path());
            run_as(user, "owners::child_sweeps", dir.path());
        }
    }
}

#[test]
// verifies: shared-directory
fn a_directory_of_root_gets_the_owner_of_its_parent() {
    if !is_root() {
        return eprintln!("only root can run processes of other users");
    }
    let dir = directory(USER, USER, 0o755);
    let locks = dir.path().join("new/locks");
    for user in [0, USER, 0] {
        run_as(user, "owners::child_uses_all_with_default_mode", &locks);
    }
    for made in ["new", "new/locks"] {
        let found = fs::metadata(dir.path().join(made)).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (USER, USER, 0o700), "{made}");
    }
}

/// The parent has no set-group-ID bit, so the kernel gives the directory another group.
#[test]
// verifies: shared-directory
fn a_shared_directory_gets_the_group_of_its_parent() {
    if !is_root() {
        return eprintln!("only root can run processes of other users");
    }
    for users in [[0, USER, OTHER], [USER, OTHER, 0]] {
        let dir = directory(0, GROUP, 0o770);
        let locks = dir.path().join("new/locks");
        for user in users {
            run_as(user, "owners::child_uses_all_with_group_mode", &locks);
        }
        let found = fs::metadata(&locks).unwrap();
        assert_eq!((found.gid(), found.mode() & 0o7777), (GROUP, 0o2770));
    }
}

#[tokio::test]
async fn child_uses_a_lock_that_all_may_write() {
    let Some(dir) = in_child() else { return };
    let (_, lease) = grant(&FileConfig::new(&dir).mode(0o666).build().unwrap(), &request("etl")).await;
    println!("CHILD RAN with the token {:?}", lease.token);
}

#[tokio::test]
async fn child_is_refused_under_the_sticky_bit() {
    let Some(dir) = in_child() else { return };
    let error = failed(&FileConfig::new(&dir).mode(0o666).build().unwrap(), "etl").await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.to_string().contains("without the sticky bit"), "{error}");
    println!("CHILD RAN");
}

#[tokio::test]
async fn child_waits_for_a_reader() {
    let Some(dir) = in_child() else { return };
    let holder = refused(&FileConfig::new(&dir).mode(0o644).build().unwrap(), "etl").await;
    assert_eq!(holder.foreign.as_deref(), Some("a flock(2) holder without a record"));
    println!("CHILD RAN");
}

/// The doctor reports such users.
#[test]
// verifies: shared-directory
fn a_reader_of_a_lock_file_can_hold_its_lock() {
    if !is_root() {
        return eprintln!("only root can run processes of other users");
    }
    let dir = directory(USER, USER, 0o755);
    let file = dir.path().join("etl.lock");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    chown(&file, Some(USER), Some(USER)).unwrap();
    let ids = [&format!("--reuid={OTHER}"), &format!("--regid={OTHER}"), "--clear-groups"];
    let flock = ["flock", "--no-fork", file.to_str().unwrap(), "sh", "-c", "echo held; exec sleep 1000"];
    let mut reader = Process::start(&[&["setpriv"], &ids[..], &flock].concat());
    reader.wait_for("held");
    run_as(USER, "owners::child_waits_for_a_reader", dir.path());
}

#[test]
// verifies: shared-directory
fn a_refused_user_does_not_lock_the_owner_out() {
    if !is_root() {
        return eprintln!("only root can run processes of other users");
    }
    let dir = directory(0, 0, 0o1777);
    for _ in 0..3 {
        run_as(USER, "owners::child_uses_a_lock_that_all_may_write", dir.path());
        run_as(OTHER, "owners::child_is_refused_under_the_sticky_bit", dir.path());
    }
}

#[test]
// verifies: shared-directory
fn the_umask_does_not_decide_who_shares_a_directory() {
    let modes = |directory_mode: u32| {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(directory_mode)).unwrap();
        let under_umask = ["sh", "-c", "umask 077; exec \"$0\" \"$@\""];
        for test in ["child_uses_all_with_default_mode", "child_sweeps", "child_uses_all_with_default_mode"] {
            run_child(&under_umask, &format!("owners::{test}"), dir.path());
        }
        ["etl.lock", "etl.info", ".onelock-floor"]
            .map(|file| fs::metadata(dir.path().join(file)).unwrap().mode() & 0o777)
    };
    assert_eq!(modes(0o700), [0o600, 0o600, 0o644]);
    assert_eq!(modes(0o755), [0o600, 0o600, 0o644]);
    assert_eq!(modes(0o770), [0o660, 0o660, 0o664]);
    assert_eq!(modes(0o777), [0o666; 3]);
}

#[test]
// verifies: shared-directory
fn a_directory_with_the_sticky_bit_shares_no_files() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(use_all(&FileBackend::open(dir.path()).unwrap(), "own"));
    assert_eq!(fs::metadata(dir.path().join("etl.lock")).unwrap().mode() & 0o777, 0o600);
}

#[test]
// verifies: shared-directory
fn first_runs_at_the_same_time_create_one_directory() {
    for _ in 0..50 {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("a/b/c");
        let acquire = &|name: String| {
            let backend = FileBackend::open(&missing).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(grant(&backend, &request(&name)));
        };
        std::thread::scope(|scope| {
            for thread in 0..6 {
                scope.spawn(move || acquire(format!("job-{thread}")));
            }
        });
    }
}
