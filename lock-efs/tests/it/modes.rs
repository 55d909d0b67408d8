//! Shared locks and permits: beside `flock(1)`, after a crash, and beside stopped processes.

use std::{fs, num::NonZeroU16, os::unix::fs::symlink, path::Path, process::Command, time::Duration};

use crate::fixture::{Process, grant, in_child, myself, name, open, request};
use lock_core::{
    ErrorKind, FencingToken, Mode,
    backend::{AcquireOutcome, AcquireRequest, Admin, Backend, End, Lease, LeaseId, ProcessBound, Release, Renewal},
};
use lock_efs::{FileBackend, Sweep};

fn reader() -> AcquireRequest {
    request("etl").with_mode(Mode::Shared)
}

fn permit(of: u16) -> AcquireRequest {
    request("etl").with_mode(Mode::Permit { of: NonZeroU16::new(of).unwrap() })
}

async fn free(backend: &FileBackend, lease: &Lease, hold_for: Duration) {
    assert_eq!(backend.release(lease, hold_for).await.unwrap(), Release::Released);
}

async fn is_refused(backend: &FileBackend, request: &AcquireRequest) -> bool {
    matches!(backend.acquire(request).await.unwrap(), AcquireOutcome::Contended(_))
}

fn flock(arguments: &[&str], path: &Path) -> bool {
    Command::new("flock").arg("-n").args(arguments).arg(path).arg("true").status().unwrap().success()
}

#[tokio::test]
// verifies: P12, foreign-client
async fn flock_1_joins_readers_and_excludes_writers() {
    let (_dir, backend) = open();
    let path = backend.lock_path(&name("etl"));
    let (_, lease) = grant(&backend, &reader()).await;
    assert!(flock(&["-s"], &path) && !flock(&["-x"], &path));
    free(&backend, &lease, Duration::ZERO).await;
    assert!(flock(&["-x"], &path));

    let hold = |how| {
        let mut held =
            Process::start(&["flock", how, "-F", path.to_str().unwrap(), "sh", "-c", "echo locked; exec sleep 600"]);
        held.wait_for("locked");
        held
    };
    let mut shared = hold("-s");
    let (_, lease) = grant(&backend, &reader()).await;
    assert!(is_refused(&backend, &request("etl")).await);
    free(&backend, &lease, Duration::ZERO).await;
    assert!(is_refused(&backend, &permit(2)).await, "permits do not mix with a foreign shared lock");
    shared.kill();
    let mut exclusive = hold("-x");
    assert!(is_refused(&backend, &reader()).await && is_refused(&backend, &permit(2)).await);
    exclusive.kill();
    let (_, lease) = grant(&backend, &permit(2)).await;
    assert!(!flock(&["-x"], &path));
    free(&backend, &lease, Duration::ZERO).await;
}

#[tokio::test]
// verifies: P9, P12
async fn a_killed_reader_frees_its_part_and_is_reported() {
    let (dir, backend) = open();
    let (_, staying) = grant(&backend, &reader()).await;
    let mut other = hold_in_child(dir.path());
    let seen = backend.inspect(&name("etl")).await.unwrap().unwrap();
    assert_eq!((seen.count(), seen.mode), (2, Mode::Shared), "{seen}");
    other.kill();
    assert_eq!(backend.inspect(&name("etl")).await.unwrap().unwrap().count(), 1);
    assert_eq!(backend.renew(&staying).await.unwrap(), Renewal::Renewed);
    free(&backend, &staying, Duration::ZERO).await;
    let (granted, _) = grant(&backend, &request("etl")).await;
    assert_eq!(granted.crashed.map(|holder| holder.count()), Some(1));
}

#[tokio::test]
// verifies: P12
async fn a_stopped_reader_keeps_its_part_only() {
    let (dir, backend) = open();
    let other = hold_in_child(dir.path());
    let signal = |how: &str| Command::new("kill").args([how, &other.0.id().to_string()]).status().unwrap();
    assert!(signal("-STOP").success());
    let (_, lease) = grant(&backend, &reader()).await;
    assert!(is_refused(&backend, &request("etl")).await);
    free(&backend, &lease, Duration::ZERO).await;
    assert!(signal("-KILL").success());
}

fn hold_in_child(dir: &Path) -> Process {
    let command = myself("modes::child_holds_a_shared_lock", dir);
    let mut child = Process::start(&command.iter().map(String::as_str).collect::<Vec<_>>());
    child.wait_for("CHILD HOLDS");
    child
}

#[tokio::test]
async fn child_holds_a_shared_lock() {
    let Some(dir) = in_child() else { return };
    let backend = FileBackend::open(dir).unwrap();
    let _held = grant(&backend, &reader()).await;
    println!("CHILD HOLDS");
    std::thread::sleep(Duration::from_secs(600));
}

#[tokio::test]
// verifies: foreign-client, P12
async fn crashed_permits_do_not_admit_others_beside_flock() {
    let (dir, backend) = open();
    grant(&backend, &permit(1)).await;
    // As a crash leaves it: the record says "held", and no byte is locked.
    let crashed = backend.lock_path(&name("etl")).with_extension("parts");
    let record = fs::read(&crashed).unwrap();
    drop(backend);
    fs::write(&crashed, record).unwrap();
    let backend = FileBackend::open(dir.path()).unwrap();
    let path = backend.lock_path(&name("etl"));
    let mut shared =
        Process::start(&["flock", "-s", "-F", path.to_str().unwrap(), "sh", "-c", "echo locked; exec sleep 600"]);
    shared.wait_for("locked");
    assert!(is_refused(&backend, &permit(1)).await);
    shared.kill();
    let (granted, _) = grant(&backend, &permit(1)).await;
    assert!(granted.crashed.is_some(), "the record says that a holder crashed");
}

#[tokio::test]
async fn the_last_holder_of_a_part_is_known() {
    for mode in [reader().mode, permit(2).mode] {
        let (dir, backend) = open();
        let (_, first) = grant(&backend, &request("etl").with_mode(mode)).await;
        let (granted, second) = grant(&backend, &request("etl").with_mode(mode).with_owner("last")).await;
        for lease in [&second, &first] {
            assert_eq!(backend.last_holder(&name("etl")).await.unwrap(), None, "it is held");
            free(&backend, lease, Duration::ZERO).await;
        }
        let past = backend.last_holder(&name("etl")).await.unwrap().unwrap();
        assert_eq!((past.holder.owner.as_deref(), past.holder.token), (Some("last"), granted.token));
        assert_eq!((past.holder.mode, past.end), (mode, End::Released));
        assert!(past.ended_at.is_some());
        // As a crash leaves it.
        backend.on_lost(&grant(&backend, &reader()).await.1);
        drop(backend);
        let backend = FileBackend::open(dir.path()).unwrap();
        assert_eq!(backend.last_holder(&name("etl")).await.unwrap().unwrap().end, End::Crashed);
    }
}

#[tokio::test]
// verifies: odd-entries, P12
async fn no_reader_joins_a_part_without_a_record() {
    for of in [permit(2), reader()] {
        let (dir, backend) = open();
        let (_, lease) = grant(&backend, &of).await;
        fs::write(dir.path().join("etl.parts"), "").unwrap();
        assert!(is_refused(&backend, &reader()).await && is_refused(&backend, &request("etl")).await);
        free(&backend, &lease, Duration::ZERO).await;
        grant(&backend, &reader()).await;
    }
}

#[tokio::test]
// verifies: P5, P12
async fn a_refusal_by_the_same_mode_leaves_no_mark() {
    let (dir, backend) = open();
    let (_, reading) = grant(&backend, &reader()).await;
    fs::write(dir.path().join("etl.parts"), "").unwrap();
    assert!(is_refused(&backend, &reader().with_waits(true)).await, "the mode of the holder is not known");
    free(&backend, &reading, Duration::ZERO).await;
    grant(&backend, &permit(1)).await;
}

/// As a process that is stopped in the gate.
const GATE: &str = "import fcntl, struct, sys, time
f = open(sys.argv[1], 'r+b')
fcntl.fcntl(f, 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 1, 0))
print('locked', flush=True)
time.sleep(600)";

#[tokio::test]
// verifies: P12
async fn a_process_stopped_in_the_gate_hangs_no_other() {
    let (dir, backend) = open();
    let (_, lease) = grant(&backend, &reader()).await;
    let parts = dir.path().join("etl.parts");
    let mut stopped = Process::start(&["python3", "-c", GATE, parts.to_str().unwrap()]);
    stopped.wait_for("locked");
    assert!(is_refused(&backend, &reader()).await);
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    free(&backend, &lease, Duration::ZERO).await;
    let (_, lease) = grant(&backend, &request("etl")).await;
    free(&backend, &lease, Duration::ZERO).await;
    stopped.kill();
    grant(&backend, &reader()).await;
}

#[tokio::test]
// verifies: P3, P12
async fn a_removed_file_of_parts_is_a_loss() {
    let (dir, backend) = open();
    let (_, lease) = grant(&backend, &permit(1)).await;
    fs::remove_file(dir.path().join("etl.parts")).unwrap();
    assert!(matches!(backend.renew(&lease).await.unwrap(), Renewal::Lost(_)));
}

#[tokio::test]
// verifies: obstacles, P12
async fn a_stranger_in_place_of_the_parts_is_untouched() {
    for is_link in [true, false] {
        let (dir, backend) = open();
        let (parts, target) = (dir.path().join("etl.parts"), dir.path().join("target"));
        fs::write(&target, "precious\n").unwrap();
        let placed = if is_link { symlink(&target, &parts) } else { fs::hard_link(&target, &parts) };
        placed.unwrap();
        let error = backend.acquire(&reader()).await.unwrap_err();
        assert!(error.to_string().contains("etl.parts"), "{error}");
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious\n");
        grant(&backend, &request("etl")).await;
    }
}

#[tokio::test]
// verifies: P7, P12
async fn a_sweep_removes_idle_parts_and_keeps_tokens_rising() {
    let (dir, backend) = open();
    let (first, one) = grant(&backend, &permit(2)).await;
    let (second, two) = grant(&backend, &permit(2)).await;
    assert_eq!(backend.sweep(Sweep::new(Duration::ZERO)).unwrap().removed.len(), 0);
    for lease in [one, two] {
        free(&backend, &lease, Duration::ZERO).await;
    }
    assert_eq!(backend.sweep(Sweep::new(Duration::ZERO)).unwrap().removed.len(), 1);
    assert!(!dir.path().join("etl.parts").exists());
    let (third, _) = grant(&backend, &reader()).await;
    assert!(first.token < second.token && second.token < third.token);
}

#[tokio::test]
async fn too_many_permits_and_too_much_data_are_errors() {
    let (_dir, backend) = open();
    for request in [permit(257), reader().with_data(vec![b'x'; 5_000])] {
        let error = backend.acquire(&request).await.unwrap_err();
        assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Limit, false), "{error}");
    }
    let _ = grant(&backend, &permit(256)).await;
}

#[tokio::test]
// verifies: P7, P12
async fn the_next_token_exceeds_an_advanced_part() {
    let (_dir, backend) = open();
    let mut last = 0;
    for next in [reader(), request("etl"), permit(2)] {
        let (_, lease) = grant(&backend, &reader()).await;
        let raised = FencingToken::new(lease.token.unwrap().get() + 60_000_000).unwrap();
        assert!(backend.advance_token(&lease, raised).await.unwrap());
        free(&backend, &lease, Duration::ZERO).await;
        let (granted, lease) = grant(&backend, &next).await;
        assert!(granted.token > Some(raised) && raised.get() > last);
        last = granted.token.unwrap().get();
        free(&backend, &lease, Duration::ZERO).await;
    }
}

#[tokio::test]
// verifies: P7, P12
async fn a_grant_after_a_part_shows_its_token_or_none() {
    let (_dir, backend) = open();
    let (mut last, mut shown) = (None, 0);
    for next in [request("etl"), request("etl"), reader(), request("etl"), permit(2), request("etl"), request("etl")] {
        let (granted, lease) = grant(&backend, &next).await;
        let previous = granted.previous_token;
        assert!(previous.is_none() || previous == last, "{:?}: {previous:?} after {last:?}", next.mode);
        shown += u32::from(previous.is_some());
        last = granted.token;
        free(&backend, &lease, Duration::ZERO).await;
    }
    assert!(shown >= 2, "a lock file shows the token of an exclusive grant to the next one");
}

#[tokio::test]
// verifies: P7, P12
async fn a_sweep_remembers_the_tokens_of_parts() {
    let (_dir, backend) = open();
    let (_, lease) = grant(&backend, &reader()).await;
    // The clock alone would give a smaller token.
    let raised = FencingToken::new(lease.token.unwrap().get() + 60_000_000).unwrap();
    assert!(backend.advance_token(&lease, raised).await.unwrap());
    free(&backend, &lease, Duration::ZERO).await;
    assert_eq!(backend.sweep(Sweep::new(Duration::ZERO)).unwrap().removed.len(), 1);
    let (granted, _) = grant(&backend, &request("etl")).await;
    assert!(granted.token > Some(raised), "{:?} after {raised}", granted.token);
}

#[tokio::test]
// verifies: P12
async fn lent_descriptors_keep_the_part_and_its_lock() {
    let (_dir, backend) = open();
    let (_, lease) = grant(&backend, &permit(1)).await;
    let lent = backend.descriptors(&lease).unwrap();
    backend.on_lost(&lease);
    assert!(is_refused(&backend, &permit(1)).await && is_refused(&backend, &request("etl")).await);
    drop(lent);
    grant(&backend, &permit(1)).await;
}

#[tokio::test]
// verifies: hold-limits, P12
async fn a_minimum_hold_outlasts_all_other_parts() {
    for held in [reader(), permit(2)] {
        let (_dir, backend) = open();
        let (_, lease) = grant(&backend, &held).await;
        free(&backend, &lease, Duration::from_secs(600)).await;
        let (_, lease) = grant(&backend, &held.clone().with_id(LeaseId::random())).await;
        assert_eq!(backend.inspect(&name("etl")).await.unwrap().unwrap().count(), 2);
        assert!(held.mode == Mode::Shared || is_refused(&backend, &permit(2)).await, "one of two is kept");
        free(&backend, &lease, Duration::ZERO).await;
        let refused = backend.acquire(&request("etl")).await.unwrap();
        let AcquireOutcome::Contended(holder) = refused else { panic!("the minimum hold has not ended") };
        assert_eq!((holder.mode, holder.expires_in.is_some()), (held.mode, true));
        assert!(backend.inspect(&name("etl")).await.unwrap().is_some());
    }
}
