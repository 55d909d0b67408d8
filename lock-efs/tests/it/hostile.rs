//! A directory that other users can write to, with anything in the place of any file of a lock.

use std::{
    fs::{self, File, Permissions},
    future::Future,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::fixture::{grant, in_child, is_root, name, open, request, run_child, without_capabilities};
use lock_core::{
    Error, Mode,
    backend::{AcquireOutcome, Admin, Backend, Release},
};
use lock_efs::{FileBackend, FileConfig, Sweep};

/// Bounds only a failing test. A call that hangs would block the test's own thread, so each case
/// has a thread.
const LONG: Duration = Duration::from_secs(60);
const PRECIOUS: &str = "precious\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    Link,
    LinkToEmptyFile,
    LinkToRecord,
    DanglingLink,
    HardLink,
    Pipe,
    Socket,
    Directory,
    Device,
    GiantFile,
    Unreadable,
    AnothersFile,
}

use Obstacle::{
    AnothersFile, DanglingLink, Device, Directory, GiantFile, HardLink, Link, LinkToEmptyFile, LinkToRecord, Pipe,
    Socket, Unreadable,
};

const OBSTACLES: [Obstacle; 12] = [
    Link,
    LinkToEmptyFile,
    LinkToRecord,
    DanglingLink,
    HardLink,
    Pipe,
    Socket,
    Directory,
    Device,
    GiantFile,
    Unreadable,
    AnothersFile,
];

/// The names beside a lock, and the one of the floor.
const PLACES: [&str; 7] = ["etl.lock", "etl.info", "etl.prev", "etl.queue", "etl.parts", "etl.fair", ".onelock-floor"];
/// The names that serve only locks on local file systems.
const LOCAL_PLACES: [&str; 2] = ["etl.prev", "etl.queue"];

impl Obstacle {
    /// Puts the obstacle at `path`. `target` is a file elsewhere. Returns whether this user can.
    fn place(self, path: &Path, target: &Path) -> bool {
        let _ = fs::remove_file(path);
        let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
        // Even a file elsewhere that could be one of onelock is not written.
        match self {
            LinkToEmptyFile => fs::write(target, "").unwrap(),
            LinkToRecord => fs::write(target, "onelock/1 floor 7\n").unwrap(),
            _ => {}
        }
        match self {
            Link | LinkToEmptyFile | LinkToRecord => symlink(target, path).unwrap(),
            DanglingLink => symlink(target.with_extension("missing"), path).unwrap(),
            HardLink => fs::hard_link(target, path).unwrap(),
            Pipe => run(Command::new("mkfifo").arg(path)),
            Socket => drop(UnixListener::bind(path).unwrap()),
            Directory => fs::create_dir(path).unwrap(),
            // A container may forbid it.
            Device => return Command::new("mknod").arg(path).args(["c", "1", "3"]).output().unwrap().status.success(),
            GiantFile => File::create(path).unwrap().set_len(1 << 40).unwrap(),
            Unreadable => {
                fs::write(path, PRECIOUS).unwrap();
                fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap();
            }
            AnothersFile => {
                fs::write(path, PRECIOUS).unwrap();
                fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
                return std::os::unix::fs::chown(path, Some(65_534), Some(65_534)).is_ok();
            }
        }
        true
    }
}

/// Everything about a name and its target that a change would show.
fn state(path: &Path, target: &Path) -> impl PartialEq + std::fmt::Debug + use<> {
    let of = |found: &fs::Metadata| (found.ino(), found.mode(), found.uid(), found.gid(), found.len());
    let found = fs::symlink_metadata(path).unwrap();
    let text = (found.is_file() && found.len() < 1_000).then(|| fs::read(path).ok());
    (
        of(&found),
        found.file_type().is_fifo(),
        text,
        fs::read_link(path).ok(),
        of(&fs::metadata(target).unwrap()),
        fs::read_to_string(target).unwrap(),
        target.with_extension("missing").exists(),
    )
}

/// Runs `call` with a limit, on a thread of its own.
fn bounded<T: Send + 'static, F: Future<Output = T>>(what: &str, call: impl FnOnce() -> F + Send + 'static) -> T {
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = done.send(runtime.block_on(call()));
    });
    is_done.recv_timeout(LONG).unwrap_or_else(|error| panic!("{what} hangs or panicked: {error}"))
}

/// Runs every operation on the lock `etl` and one on `other`. Returns the errors about `etl`.
async fn every_operation(directory: PathBuf) -> Vec<Error> {
    let backend = FileConfig::new(directory).mode(0o666).build().unwrap();
    let etl = name("etl");
    let mine = request("etl");
    let mut errors = Vec::new();
    errors.extend(backend.inspect(&etl).await.err());
    match backend.acquire(&mine).await {
        Err(error) => errors.push(error),
        Ok(AcquireOutcome::Contended(holder)) => panic!("no process holds the lock, but {holder} does"),
        Ok(AcquireOutcome::Granted(grant)) => {
            let lease = mine.lease(grant.token);
            errors.extend(backend.watch(&etl).await.err());
            let queued = request("etl").with_waits(true).with_fair(true);
            errors.extend(backend.acquire(&queued).await.err());
            errors.extend(backend.watch_place(&queued).await.err());
            errors.extend(backend.release(&queued.lease(None), Duration::ZERO).await.err());
            errors.extend(backend.renew(&lease).await.err());
            let token = lock_core::FencingToken::new(lease.token.unwrap().get() + 1).unwrap();
            errors.extend(backend.advance_token(&lease, token).await.err());
            errors.extend(backend.release(&lease, Duration::ZERO).await.err());
        }
    }
    if backend.capabilities().shared {
        let shared = request("etl").with_mode(Mode::Shared);
        match backend.acquire(&shared).await {
            Err(error) => errors.push(error),
            Ok(AcquireOutcome::Contended(holder)) => panic!("no process holds the lock, but {holder} does"),
            Ok(AcquireOutcome::Granted(grant)) => {
                let lease = shared.lease(grant.token);
                errors.extend(backend.renew(&lease).await.err());
                errors.extend(backend.release(&lease, Duration::ZERO).await.err());
            }
        }
    }
    errors.extend(backend.watch(&etl).await.err());
    assert!(backend.break_lock(&etl, "1", "me").await.is_err());
    let _ = backend.diagnose().await;
    errors.extend(backend.sweep(Sweep::new(Duration::ZERO)).err());
    errors.extend(backend.purge(&etl).await.err());

    let (_, lease) = grant(&backend, &request("other")).await;
    let listed = backend.list("").await.unwrap().locks;
    assert_eq!(listed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["other"]);
    assert!(backend.inspect(&name("other")).await.unwrap().is_some());
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    errors
}

/// Each obstacle is put at each place before the first lock, and after one was released.
fn check_all(only: impl Fn(Obstacle) -> bool) -> usize {
    let mut checked = 0;
    for (obstacle, place) in OBSTACLES.into_iter().filter(|o| only(*o)).flat_map(|o| PLACES.map(|place| (o, place))) {
        for used in [false, true] {
            let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let (path, target) = (dir.path().join(place), elsewhere.path().join("target"));
            fs::write(&target, PRECIOUS).unwrap();
            let directory = dir.path().to_owned();
            let what = format!("{obstacle:?} at {place}, used before: {used}");
            let is_local = bounded(&what, {
                let directory = directory.clone();
                move || async move {
                    let backend = FileBackend::open(directory).unwrap();
                    for text in if used { &["etl", "etl", "other"][..] } else { &["other"] } {
                        let (_, lease) = grant(&backend, &request(text)).await;
                        assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
                    }
                    backend.capabilities().wake_up
                }
            });
            if !obstacle.place(&path, &target) {
                continue;
            }
            let before = state(&path, &target);
            let errors = bounded(&what, move || every_operation(directory));
            assert_eq!(state(&path, &target), before, "{what}");
            for error in &errors {
                assert!(error.to_string().contains(path.to_str().unwrap()), "{what}: {error}");
            }
            // A lock file with content can be locked like any other, and root reads all files.
            let can_be_locked =
                place == "etl.lock" && matches!(obstacle, HardLink | GiantFile | AnothersFile | Unreadable);
            let is_unused = !is_local && LOCAL_PLACES.contains(&place);
            assert!(can_be_locked || errors.is_empty() == is_unused, "{what}: {errors:?}");
            checked += 1;
        }
    }
    checked
}

#[test]
// verifies: obstacles
fn obstacles_at_any_name_are_named_and_untouched() {
    let checked = check_all(|_| true);
    assert!(checked >= if is_root() { 100 } else { 80 }, "{checked}");
}

/// Root opens files of all users, so a user without its privileges is tried too.
#[test]
// verifies: obstacles
fn obstacles_stop_no_user_without_privileges() {
    let dir = tempfile::tempdir().unwrap();
    run_child(without_capabilities(), "hostile::child_without_privileges", dir.path());
}

#[test]
fn child_without_privileges() {
    if in_child().is_none() {
        return;
    }
    assert!(check_all(|obstacle| matches!(obstacle, Unreadable | Pipe | Link | LinkToEmptyFile)) > 0);
    println!("CHILD RAN");
}

/// The record, and so the long name, cannot be read.
#[tokio::test]
// verifies: odd-entries
async fn odd_entries_never_hide_other_locks() {
    let (dir, backend) = open();
    let long = "long/".repeat(200);
    for text in ["a", "z", &long] {
        grant(&backend, &request(text)).await;
    }
    symlink("/nowhere", dir.path().join("m.lock")).unwrap();
    fs::create_dir(dir.path().join("n.lock")).unwrap();
    drop(UnixListener::bind(dir.path().join("o.lock")).unwrap());
    File::create(dir.path().join("p.lock")).unwrap();
    symlink("/nowhere", dir.path().join("p.info")).unwrap();
    // Without its record, the name of a long lock is unknown.
    grant(&backend, &request(&"lost/".repeat(200))).await;
    let lost = backend.lock_path(&name(&"lost/".repeat(200)));
    fs::remove_file(lost.with_extension("info")).unwrap();
    // The lock is held, and its record is another program's file.
    grant(&backend, &request("t")).await;
    fs::write(dir.path().join("t.info"), PRECIOUS).unwrap();
    let listed = backend.list("").await.unwrap();
    let names: Vec<_> = listed.locks.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", long.as_str(), "t", "z"]);
    let mut places: Vec<_> = listed.odd().iter().map(|entry| entry.place.clone()).collect();
    places.sort();
    let at = |file: &str| dir.path().join(file).display().to_string();
    let mut expected = ["m.lock", "n.lock", "o.lock", "p.info", "t.info"].map(at).to_vec();
    expected.push(lost.display().to_string());
    expected.sort();
    assert_eq!(places, expected);
    let reason = |file: &str| &listed.odd().iter().find(|entry| entry.place == at(file)).unwrap().reason;
    assert!(reason("m.lock").contains("symbolic link"), "{}", reason("m.lock"));
    assert!(reason("t.info").contains("another program's file"), "{}", reason("t.info"));
    // An entry of another prefix is not read.
    assert_eq!(backend.list("lo").await.unwrap().odd_count(), 1);
    assert_eq!(backend.list("m").await.unwrap().odd_count(), 1);
    let error = backend.inspect(&name("m")).await.unwrap_err();
    assert!(error.to_string().contains("m.lock") && error.to_string().contains("symbolic link"), "{error}");
}
