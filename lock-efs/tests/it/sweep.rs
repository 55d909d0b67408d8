//! Sweeps remove idle names, keep all others, and tokens continue to rise.

use std::{
    fs::{self, File},
    path::Path,
    time::{Duration, SystemTime},
};

use crate::fixture::{grant, name, open, refused, request, token};
use lock_core::{ErrorKind, backend::ProcessBound};
use lock_efs::{FileBackend, Sweep};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Makes all files of `dir` look untouched for two days.
fn age(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let file = File::options().write(true).open(entry.unwrap().path()).unwrap();
        file.set_modified(SystemTime::now() - 2 * DAY).unwrap();
    }
}

async fn used(backend: &FileBackend, text: &str) -> u64 {
    let (grant, lease) = grant(backend, &request(text)).await;
    assert!(backend.release_now(&lease, Duration::ZERO));
    token(&grant).get()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with(".onelock-"));
    names.sort();
    names
}

#[tokio::test]
async fn a_sweep_removes_only_idle_names_without_a_holder() {
    let (dir, backend) = open();
    used(&backend, "idle").await;
    let _held = grant(&backend, &request("held")).await;
    File::create(dir.path().join("foreign.lock")).unwrap();
    age(dir.path());
    used(&backend, "recent").await;
    let dry = backend.sweep(Sweep::new(DAY).dry_run(true)).unwrap();
    assert!(dry.removed.contains(&backend.lock_path(&name("idle"))));
    assert!(backend.lock_path(&name("idle")).exists(), "a dry run removes nothing");
    let swept = backend.sweep(Sweep::new(DAY)).unwrap();
    assert_eq!((swept.removed, swept.kept), (vec![backend.lock_path(&name("idle"))], 3));
    assert_eq!(names(dir.path()), ["foreign.lock", "held.info", "held.lock", "recent.info", "recent.lock"]);
    refused(&backend, "held").await;
}

#[tokio::test]
async fn tokens_ahead_of_the_clock_rise_across_a_sweep() {
    let (dir, backend) = open();
    let now = used(&backend, "etl").await;
    let record = dir.path().join("etl.info");
    let ahead = now + 1_000_000_000;
    fs::write(&record, fs::read_to_string(&record).unwrap().replace(&now.to_string(), &ahead.to_string())).unwrap();
    age(dir.path());
    assert_eq!(backend.sweep(Sweep::new(DAY)).unwrap().removed.len(), 1);
    assert!(used(&backend, "etl").await > ahead);
}

#[tokio::test]
async fn a_minimum_hold_outlives_a_sweep() {
    let (dir, backend) = open();
    let (_, lease) = grant(&backend, &request("etl")).await;
    assert!(backend.release_now(&lease, DAY));
    age(dir.path());
    assert_eq!(backend.sweep(Sweep::new(DAY)).unwrap().kept, 1);
    refused(&backend, "etl").await;
}

#[tokio::test]
async fn a_second_sweep_of_a_directory_is_refused() {
    let (dir, backend) = open();
    let turn = File::create(dir.path().join(".onelock-floor")).unwrap();
    turn.lock().unwrap();
    assert_eq!(backend.sweep(Sweep::new(DAY)).unwrap_err().kind(), ErrorKind::Unavailable);
    drop(turn);
    assert_eq!(backend.sweep(Sweep::new(DAY)).unwrap().removed.len(), 0);
}

#[tokio::test]
async fn a_sweep_removes_old_temp_records_only() {
    let (dir, backend) = open();
    used(&backend, "etl").await;
    let [old, young] = ["0", "1"].map(|digit| dir.path().join(format!(".onelock-{}", digit.repeat(32))));
    fs::write(&old, "").unwrap();
    age(dir.path());
    fs::write(&young, "").unwrap();
    let _ = backend.sweep(Sweep::new(DAY).dry_run(true)).unwrap();
    assert!(old.exists(), "a dry run removes nothing");
    let _ = backend.sweep(Sweep::new(Duration::ZERO)).unwrap();
    // The young file stays: within the cache time of NFS clients its owner may still use it.
    assert!(!old.exists() && young.exists() && dir.path().join(".onelock-floor").exists());
}
