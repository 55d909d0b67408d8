//! An exhausted limit is reported as such, and held locks are counted.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::fixture::{failed, grant, in_child, name, open, refused, request, run_child};
use lock_core::{
    ErrorKind,
    backend::{Backend, ProcessBound, Release},
};
use lock_efs::FileBackend;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// Builds a C library whose `flock` fails while the file named in the environment exists, with the
/// error number in that file.
fn failing_flock(dir: &Path) -> PathBuf {
    const SOURCE: &str = r#"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
int flock(int fd, int operation) {
    FILE *told = fopen(getenv("FAIL_FLOCK"), "re");
    int with = 0;
    if (told && fscanf(told, "%d", &with) == 1) { fclose(told); errno = with; return -1; }
    if (told) fclose(told);
    return syscall(SYS_flock, fd, operation);
}"#;
    let (source, library) = (dir.join("flock.c"), dir.join("flock.so"));
    fs::write(&source, SOURCE).unwrap();
    let compiled = Command::new("gcc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(compiled.expect("gcc is installed").success());
    library
}

#[test]
fn enolck_and_edquot_are_limits_that_name_the_efs_limits() {
    let (dir, tools) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let preload = format!("LD_PRELOAD={}", failing_flock(tools.path()).display());
    let told = format!("FAIL_FLOCK={}", tools.path().join("errno").display());
    run_child(&["env", &preload, &told], "limits::child_at_its_limits", dir.path());
}

#[tokio::test]
async fn child_at_its_limits() {
    let Some(dir) = in_child() else { return };
    let told = PathBuf::from(std::env::var_os("FAIL_FLOCK").unwrap());
    let backend = FileBackend::open(&dir).unwrap();
    let (_, kept) = grant(&backend, &request("kept")).await;
    // ENOLCK and EDQUOT, which EFS and nfsd answer.
    for (errno, retryable) in [(37, true), (122, false)] {
        fs::write(&told, errno.to_string()).unwrap();
        let error = failed(&backend, "more").await;
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Limit, retryable), "{error}");
        let text = error.to_string();
        assert!(text.contains("512") && text.contains("8,192") && text.contains("more.lock"), "{text}");
        fs::remove_file(&told).unwrap();
        let (_, lease) = grant(&backend, &request("more")).await;
        assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    }
    assert_eq!(backend.release(&kept, Duration::ZERO).await.unwrap(), Release::Released);
    println!("CHILD RAN");
}

/// Returns the gauge of held locks with its labels.
fn held(snapshotter: &Snapshotter) -> Vec<(Vec<String>, f64)> {
    let metrics = snapshotter.snapshot().into_vec().into_iter();
    let gauges = metrics.filter(|(key, ..)| key.key().name() == "onelock_file_locks_held");
    gauges
        .map(|(key, _, help, value)| {
            assert!(help.is_some(), "{} has no help text", key.key().name());
            let DebugValue::Gauge(value) = value else { panic!("not a gauge: {value:?}") };
            (key.key().labels().map(|label| format!("{}={}", label.key(), label.value())).collect(), value.0)
        })
        .collect()
}

#[test]
fn held_locks_are_counted_by_store_and_mount() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let (dir, backend) = open();
            let (_, first) = grant(&backend, &request("a")).await;
            let (_, second) = grant(&backend, &request("b")).await;
            let _ = refused(&backend, "a").await;
            let [(labels, value)] = &held(&snapshotter)[..] else { panic!("one gauge") };
            assert_eq!(labels[0], format!("store=file://{}", dir.path().display()));
            assert!(labels[1].strip_prefix("mount=").is_some_and(|mount| dir.path().starts_with(mount)), "{labels:?}");
            assert_eq!(*value, 2.0);
            assert!(backend.release_now(&first, Duration::ZERO));
            fs::remove_file(backend.lock_path(&name("b"))).unwrap();
            assert_ne!(backend.renew(&second).await.unwrap(), lock_core::backend::Renewal::Renewed);
            // The value is the change since the previous snapshot.
            assert_eq!(held(&snapshotter)[0].1, -2.0, "released and lost locks are no longer counted");
        });
    });
}
