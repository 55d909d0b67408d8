//! Questions about locks change nothing, and need no permission to write.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use crate::fixture::{grant, in_child, name, request, run_child, without_capabilities};
use lock_core::{
    Error, ErrorKind,
    backend::{Admin, Backend, Level},
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
    assert!(backend.sweep(Sweep::new(std::time::Duration::ZERO)).is_err());
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
    let _ = backend.sweep(Sweep::new(std::time::Duration::ZERO).dry_run(true)).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
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
    for entry in fs::read_dir(&dir).unwrap() {
        fs::set_permissions(entry.unwrap().path(), Permissions::from_mode(0o400)).unwrap();
    }
    fs::set_permissions(&dir, Permissions::from_mode(0o500)).unwrap();
    let reader = FileBackend::open(&dir).unwrap();
    assert_eq!(reader.inspect(&name("etl")).await.unwrap().unwrap().owner.as_deref(), Some("etl-7"));
    assert_eq!(reader.inspect(&name("free")).await.unwrap(), None);
    assert_eq!(reader.list("").await.unwrap().locks.len(), 2);
    println!("CHILD RAN");
}
