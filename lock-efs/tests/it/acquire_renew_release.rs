//! Single acquire, renew and release calls against real files.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use crate::fixture::{grant, name, open, refused, request, token};
use lock_core::{
    ErrorKind, Locker, LossReason, TryAcquire,
    backend::{AcquireOutcome, Admin, Backend, ProcessBound, Release, Renewal},
};
use lock_efs::{FileBackend, FileConfig};

const NO_TIME: Duration = Duration::ZERO;

#[tokio::test]
async fn backends_exclude_each_other_and_name_the_holder() {
    let (dir, one) = open();
    let two = FileBackend::open(dir.path()).unwrap();
    let mine = request("etl").with_owner("etl-7").with_data(b"load 3".to_vec());
    let before = SystemTime::now();
    let (granted, lease) = grant(&one, &mine).await;
    for backend in [&one, &two] {
        let holder = refused(backend, "etl").await;
        assert_eq!((holder.owner.as_deref(), holder.data.as_deref()), (Some("etl-7"), Some(&b"load 3"[..])));
        assert_eq!(holder.token, granted.token);
        assert!(
            holder.since.unwrap() + Duration::from_millis(1) >= before && holder.since.unwrap() <= SystemTime::now()
        );
        let later = backend.inspect(&name("etl")).await.unwrap().expect("it is held");
        assert!(holder.held_for.is_some() && later.held_for >= holder.held_for, "{holder:?} {later:?}");
        assert_eq!(later.with_held_for(None), holder.with_held_for(None));
    }
    assert_eq!(one.release(&lease, NO_TIME).await.unwrap(), Release::Released);
    assert_eq!(two.inspect(&name("etl")).await.unwrap(), None);
    let (next, _) = grant(&two, &request("etl")).await;
    assert!(token(&next) > token(&granted));
    assert_eq!(next.crashed, None);
}

#[tokio::test]
async fn acquiring_again_with_one_id_returns_the_same_token() {
    let (_dir, backend) = open();
    let mine = request("etl");
    let (first, lease) = grant(&backend, &mine).await;
    let (again, _) = grant(&backend, &mine).await;
    assert!(!first.already_ours && again.already_ours);
    assert_eq!(first.token, again.token);
    assert_eq!(backend.release(&lease, NO_TIME).await.unwrap(), Release::Released);
    assert_eq!(backend.release(&lease, NO_TIME).await.unwrap(), Release::NotHeld(None));
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Lost(LossReason::RecordGone));
    assert!(!grant(&backend, &mine).await.0.already_ours);
}

#[tokio::test]
async fn dropping_a_backend_frees_locks_and_reports_one_crash() {
    let (dir, one) = open();
    let (first, _) = grant(&one, &request("etl")).await;
    drop(one);
    let two = FileBackend::open(dir.path()).unwrap();
    let (second, lease) = grant(&two, &request("etl")).await;
    let crashed = second.crashed.as_ref().expect("the first holder did not release");
    assert_eq!((crashed.owner.as_deref(), crashed.token), (Some("tester"), first.token));
    assert!(token(&second) > token(&first));
    assert_eq!(two.release(&lease, NO_TIME).await.unwrap(), Release::Released);
    assert_eq!(grant(&two, &request("etl")).await.0.crashed, None);
}

#[tokio::test]
async fn a_minimum_hold_refuses_all_clients_until_it_ends() {
    let (dir, one) = open();
    let two = FileBackend::open(dir.path()).unwrap();
    let (_, lease) = grant(&one, &request("etl")).await;
    let hold = Duration::from_millis(300);
    assert_eq!(one.release(&lease, hold).await.unwrap(), Release::Released);
    let end = SystemTime::now() + hold;
    loop {
        match two.acquire(&request("etl")).await.unwrap() {
            AcquireOutcome::Contended(holder) => {
                let left = holder.expires_in.expect("a minimum hold has an end");
                assert!(left <= hold && holder.owner.as_deref() == Some("tester"));
                assert!(two.inspect(&name("etl")).await.unwrap().is_none_or(|h| h.expires_in.is_some()));
                tokio::time::sleep(left).await;
            }
            AcquireOutcome::Granted(grant) => {
                assert!(SystemTime::now() + Duration::from_millis(1) >= end, "granted before the hold ended");
                assert_eq!(grant.crashed, None);
                break;
            }
        }
    }
}

#[tokio::test]
// verifies: lost-record
async fn removing_or_replacing_a_lock_file_loses_the_lock() {
    let (_dir, backend) = open();
    let path = backend.lock_path(&name("etl"));
    let (_, first) = grant(&backend, &request("etl")).await;
    assert_eq!(backend.renew(&first).await.unwrap(), Renewal::Renewed);
    fs::remove_file(&path).unwrap();
    let Renewal::Lost(LossReason::FileLock(what)) = backend.renew(&first).await.unwrap() else { panic!("not lost") };
    assert!(what.contains(path.to_str().unwrap()), "{what}");
    assert_eq!(backend.renew(&first).await.unwrap(), Renewal::Lost(LossReason::RecordGone));

    let (_, second) = grant(&backend, &request("etl")).await;
    fs::rename(&path, path.with_extension("old")).unwrap();
    let (_, third) = grant(&backend, &request("etl")).await;
    let Release::NotHeld(Some(holder)) = backend.release(&second, NO_TIME).await.unwrap() else {
        panic!("the release named no successor")
    };
    assert_eq!(holder.token, third.token);
    assert_eq!(backend.renew(&third).await.unwrap(), Renewal::Renewed);
    refused(&backend, "etl").await;
}

#[tokio::test]
async fn acquiring_after_file_removal_is_a_new_acquisition() {
    let (_dir, backend) = open();
    let mine = request("etl");
    let (first, _) = grant(&backend, &mine).await;
    fs::remove_file(backend.lock_path(&mine.name)).unwrap();
    let (again, _) = grant(&backend, &mine).await;
    assert!(!again.already_ours && token(&again) > token(&first));
}

#[tokio::test]
async fn a_lent_descriptor_keeps_the_lock_until_a_release() {
    let (dir, one) = open();
    let two = FileBackend::open(dir.path()).unwrap();
    let (_, lease) = grant(&one, &request("etl")).await;
    let lent = one.descriptors(&lease).unwrap();
    drop(one);
    refused(&two, "etl").await;
    drop(lent);
    let (_, lease) = grant(&two, &request("etl")).await;
    let lent = two.descriptors(&lease).unwrap();
    assert!(two.release_now(&lease, NO_TIME));
    grant(&two, &request("etl")).await;
    assert!(two.descriptors(&lease).unwrap().is_empty());
    drop(lent);
}

#[tokio::test]
async fn a_guard_past_max_hold_does_not_block_a_successor() {
    let (dir, one) = open();
    let (mine, theirs) = (Locker::new(one).unwrap(), Locker::new(FileBackend::open(dir.path()).unwrap()).unwrap());
    let guard = mine.lock("etl").max_hold(Duration::from_millis(50)).acquire().await.unwrap();
    let successor = theirs.acquire("etl").await.unwrap();
    assert_eq!(guard.check().unwrap_err().reason, LossReason::MaxHold);
    assert!(matches!(guard.release().await.unwrap(), Release::NotHeld(Some(_))));
    successor.check().unwrap();
    assert!(matches!(mine.try_acquire("etl").await.unwrap(), TryAcquire::Contended(_)));
}

#[tokio::test]
async fn a_lent_descriptor_keeps_the_lock_after_the_guard_ends() {
    let (dir, one) = open();
    let two = FileBackend::open(dir.path()).unwrap();
    let (_, lease) = grant(&one, &request("etl")).await;
    let lent = one.descriptors(&lease).unwrap();
    one.on_lost(&lease);
    refused(&two, "etl").await;
    drop(lent);
    grant(&two, &request("etl")).await;
}

#[tokio::test]
async fn odd_names_are_locked_and_listed_unchanged() {
    let (dir, backend) = open();
    let long = "long/".repeat(200);
    let mut names = ["../x", "..", "a/b", "A", "a", "\0", "é", "e\u{301}", "CON", "x.lock", &long];
    for odd in names {
        grant(&backend, &request(odd)).await;
    }
    for odd in names {
        refused(&backend, odd).await;
    }
    // Foreign files in the directory are not locks of onelock.
    fs::write(dir.path().join("Backup.lock"), "").unwrap();
    fs::write(dir.path().join("free.lock"), "").unwrap();
    names.sort_unstable();
    let listed = backend.list("").await.unwrap().locks;
    assert_eq!(listed.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), names);
    let listed = backend.list("long").await.unwrap().locks;
    assert_eq!(listed.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), [&long]);
}

#[tokio::test]
async fn a_ttl_is_refused_with_the_fix() {
    let (_dir, backend) = open();
    let locker = lock_core::Locker::new(backend).unwrap();
    let error = locker.lock("etl").ttl(Duration::from_secs(9)).try_acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("leave ttl out"), "{error}");
}

#[tokio::test]
async fn data_too_large_for_a_record_leaves_the_lock_free() {
    let (_dir, backend) = open();
    let error = backend.acquire(&request("etl").with_data(vec![0; 300_000])).await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Limit, false));
    grant(&backend, &request("etl")).await;
}

#[tokio::test]
async fn created_files_are_private_unless_a_mode_shares_them() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let private = dir.path().join("a/private");
    let backend = FileBackend::open(&private).unwrap();
    grant(&backend, &request("etl")).await;
    assert_eq!((mode(&private), mode(private.parent().unwrap())), (0o700, 0o700));
    let shared = dir.path().join("b/shared");
    let sharing = FileConfig::new(&shared).mode(0o666).build().unwrap();
    grant(&sharing, &request("etl")).await;
    assert_eq!((mode(&shared), mode(shared.parent().unwrap())), (0o2777, 0o2777));
    for suffix in ["lock", "info"] {
        assert_eq!(mode(&private.join("etl").with_extension(suffix)), 0o600, "{suffix}");
        assert_eq!(mode(&shared.join("etl").with_extension(suffix)), 0o666, "{suffix}");
    }
    assert_eq!(fs::metadata(private.join("etl.lock")).unwrap().size(), 0, "the lock file stays empty");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_on_many_names_exclude_each_other() {
    let (_dir, backend) = open();
    let backend = Arc::new(backend);
    let inside: Arc<Vec<AtomicUsize>> = Arc::new((0..4).map(|_| AtomicUsize::new(0)).collect());
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let (backend, inside) = (Arc::clone(&backend), Arc::clone(&inside));
            tokio::spawn(async move {
                let mut done = 0;
                let mut last = None;
                while done < 100 {
                    let mine = request(&format!("n{}", task % 4));
                    let AcquireOutcome::Granted(granted) = backend.acquire(&mine).await.unwrap() else {
                        tokio::task::yield_now().await;
                        continue;
                    };
                    assert_eq!(inside[task % 4].fetch_add(1, SeqCst), 0, "two holders at once");
                    assert!(granted.token > last && granted.crashed.is_none());
                    last = granted.token;
                    tokio::task::yield_now().await;
                    inside[task % 4].fetch_sub(1, SeqCst);
                    assert_eq!(backend.release(&mine.lease(granted.token), NO_TIME).await.unwrap(), Release::Released);
                    done += 1;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}
