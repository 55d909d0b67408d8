//! The doctor's findings about directories on real file systems.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::Command,
};

use crate::fixture::{OWN_MOUNTS, in_child, mount, open, run_child};
use lock_core::backend::{Backend, Finding, Level};
use lock_efs::{FileBackend, FileConfig};

#[track_caller]
fn find<'a>(findings: &'a [Finding], subject: &str) -> &'a Finding {
    findings
        .iter()
        .find(|finding| finding.subject == subject)
        .unwrap_or_else(|| panic!("no finding about {subject}: {findings:#?}"))
}

#[track_caller]
fn check(findings: &[Finding], subject: &str, level: Level, words: &str) {
    let finding = find(findings, subject);
    assert!(
        finding.level == level && finding.to_string().contains(words),
        "expected {level} with {words:?}, found: {finding}"
    );
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn a_private_directory_is_fit_and_left_unchanged() {
    let (dir, backend) = open();
    chmod(dir.path(), 0o700);
    let findings = backend.diagnose().await;
    // In a container the temporary directory may be on the container's own layer.
    let fit = |finding: &Finding| finding.level < Level::Warning || finding.subject == "file system";
    assert!(findings.iter().all(fit), "{findings:#?}");
    check(&findings, "permissions", Level::Good, "mode 700");
    check(&findings, "writing", Level::Good, "");
    check(&findings, "clock", Level::Good, "0.0 s");
    check(&findings, "space", Level::Good, "MiB");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_directory_writable_by_others_gets_a_warning() {
    let (dir, backend) = open();
    for (mode, level, words) in [
        (0o770, Level::Note, "group"),
        (0o777, Level::Warning, "break any lock"),
        (0o1777, Level::Warning, "sticky"),
        (0o1770, Level::Warning, "sticky"),
        (0o755, Level::Good, "mode 755"),
    ] {
        chmod(dir.path(), mode);
        check(&backend.diagnose().await, "permissions", level, words);
    }
}

#[tokio::test]
async fn users_who_only_read_lock_files_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let open =
        |mode: Option<u32>| mode.map_or(FileConfig::new(dir.path()), |mode| FileConfig::new(dir.path()).mode(mode));
    let everyone = "every user who can reach the directory may read lock files";
    for (directory, mode, level, words) in [
        (0o755, Some(0o644), Level::Warning, everyone),
        (0o775, Some(0o664), Level::Warning, everyone),
        (0o771, Some(0o664), Level::Warning, everyone),
        (0o750, Some(0o644), Level::Note, "may read lock files"),
        (0o750, Some(0o640), Level::Note, "may read lock files"),
    ] {
        chmod(dir.path(), directory);
        let findings = open(mode).build().unwrap().diagnose().await;
        check(&findings, "readers", level, words);
        check(&findings, "readers", level, "can hold these locks with flock(1)");
    }
    for (directory, mode) in [(0o755, None), (0o700, Some(0o644)), (0o770, Some(0o660)), (0o777, Some(0o666))] {
        chmod(dir.path(), directory);
        let findings = open(mode).build().unwrap().diagnose().await;
        assert!(findings.iter().all(|finding| finding.subject != "readers"), "{directory:o}: {findings:#?}");
    }
    // As flock(1) creates it.
    fs::write(dir.path().join("etl.lock"), "").unwrap();
    chmod(&dir.path().join("etl.lock"), 0o644);
    chmod(dir.path(), 0o755);
    check(&open(None).build().unwrap().diagnose().await, "readers", Level::Warning, everyone);
}

/// Creates a file of another user: of an unknown user if this process is root, otherwise of root.
fn foreign_file(path: &Path) {
    fs::write(path, "").unwrap();
    if chown(path, Some(12345), Some(12345)).is_err() {
        mount(&["--bind", "/etc/passwd"], path);
    }
}

#[test]
fn foreign_lock_files_without_write_access_get_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    // Root may write to every file except, in a user namespace, a file whose owner is unknown
    // there.
    if Command::new("id").arg("-u").output().unwrap().stdout == b"0\n" {
        foreign_file(&dir.path().join("etl.lock"));
    }
    run_child(OWN_MOUNTS, "doctor::child_with_foreign_files", dir.path());
}

#[tokio::test]
async fn child_with_foreign_files() {
    let Some(dir) = in_child() else { return };
    let path = dir.join("etl.lock");
    if !path.exists() {
        foreign_file(&path);
    }
    let backend = FileBackend::open(&dir).unwrap();
    check(&backend.diagnose().await, "files", Level::Warning, "1 of 1 files of other users cannot be written");
    println!("CHILD RAN");
}

#[test]
fn the_doctor_reports_the_fitness_of_each_file_system() {
    let dir = tempfile::tempdir().unwrap();
    run_child(OWN_MOUNTS, "doctor::child_on_other_file_systems", dir.path());
}

#[tokio::test]
async fn child_on_other_file_systems() {
    let Some(dir) = in_child() else { return };
    mount(&["-t", "tmpfs", "-o", "size=512k,mode=700", "none"], &dir);
    let small = FileBackend::open(&dir).unwrap();
    let findings = small.diagnose().await;
    check(&findings, "file system", Level::Note, "tmpfs");
    check(&findings, "space", Level::Warning, "0 MiB");
    check(&findings, "writing", Level::Good, "");
    fs::write(dir.join("ballast"), vec![0; 500_000]).unwrap_or_default();
    let _ = fs::write(dir.join("ballast2"), vec![0; 100_000]);
    check(&small.diagnose().await, "writing", Level::Unfit, "file system is full");
    drop(small);

    mount(&["-t", "tmpfs", "-o", "mode=700", "none"], &dir);
    for part in ["lower", "upper", "work", "merged"] {
        fs::create_dir(dir.join(part)).unwrap();
    }
    let merged = dir.join("merged");
    let [lower, upper, work] = ["lower", "upper", "work"].map(|part| dir.join(part).display().to_string());
    mount(&["-t", "overlay", "-o", &format!("lowerdir={lower},upperdir={upper},workdir={work}"), "none"], &merged);
    check(
        &FileBackend::open(&merged).unwrap().diagnose().await,
        "file system",
        Level::Warning,
        "container's own layer",
    );

    let locks = dir.join("locks");
    fs::create_dir(&locks).unwrap();
    let (backend, missing) = (FileBackend::open(&locks).unwrap(), FileBackend::open(dir.join("missing")).unwrap());
    mount(&["--bind", dir.to_str().unwrap()], &dir);
    mount(&["-o", "remount,bind,ro"], &dir);
    check(&backend.diagnose().await, "writing", Level::Unfit, "read-only");
    check(&missing.diagnose().await, "directory", Level::Unfit, "cannot be created");
    println!("CHILD RAN");
}
