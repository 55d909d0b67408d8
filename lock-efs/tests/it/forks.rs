//! Processes made by `fork` without exec.

use std::{
    fs::{self, File},
    num::NonZeroU16,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{ChildStdin, Command},
    thread,
    time::{Duration, Instant},
};

use lock_core::{
    LockOptions, Locker, LossReason, Mode, Release,
    backend::{AcquireOutcome, AcquireRequest, Backend},
    blocking::{self, TryAcquire},
};
use lock_efs::FileBackend;
use nix::libc;
use test_support::{
    fork::{
        assert_a_child_leaves_the_lock, assert_a_locker_works_in_both, attempt, dropped_in_a_child, forked,
        wait_for_the_end_of_input,
    },
    until, wait_for,
};

use crate::fixture::{Process, grant, in_child, myself, request, run_child};

fn locker(directory: &Path) -> blocking::Locker {
    blocking::Locker::open_with(async { Locker::new(FileBackend::open(directory)?) }).unwrap()
}

/// Whether another program can lock the file of `etl`.
fn is_free(directory: &Path) -> bool {
    File::options().read(true).write(true).open(directory.join("etl.lock")).unwrap().try_lock().is_ok()
}

#[test]
// verifies: forked
fn a_child_that_drops_or_releases_leaves_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    assert_a_child_leaves_the_lock(locker(dir.path()), || is_free(dir.path()));
}

#[test]
// verifies: forked
fn a_locker_opened_before_a_fork_works_in_both() {
    let dir = tempfile::tempdir().unwrap();
    assert_a_locker_works_in_both(locker(dir.path()));
}

#[test]
// verifies: forked
fn a_living_child_does_not_keep_a_killed_parents_lock() {
    let dir = tempfile::tempdir().unwrap();
    let (mut parent, _input) = forking("forks::child_holds_a_lock_and_forks", dir.path());
    assert!(!is_free(dir.path()));
    let pid = fs::read_to_string(dir.path().join("pid")).unwrap();
    parent.kill();
    let end = Instant::now() + Duration::from_secs(20);
    while !is_free(dir.path()) {
        assert!(Instant::now() < end, "the child keeps the lock of its parent");
    }
    let killed = Command::new("kill").args(["-KILL", &pid]).status().unwrap();
    assert!(killed.success(), "the child had ended, so it proved nothing");
}

/// Starts a process that runs `test`, and returns it with the input of its child, which has begun.
fn forking(test: &str, dir: &Path) -> (Process, Option<ChildStdin>) {
    let command = myself(test, dir);
    let mut parent = Process::start(&command.iter().map(String::as_str).collect::<Vec<_>>());
    // Not closed by the wait for the parent.
    let input = parent.0.stdin.take();
    parent.wait_for("CHILD FORKED");
    (parent, input)
}

/// The child inherits the open files of a shared lock and of the mark of a waiting writer.
#[tokio::test]
// verifies: forked, P12
async fn a_child_keeps_no_part_and_no_mark_of_a_killed_parent() {
    let dir = tempfile::tempdir().unwrap();
    let backend = FileBackend::open(dir.path()).unwrap();
    let reader = |name: &str| request(name).with_mode(Mode::Shared);
    grant(&backend, &reader("marked")).await;
    let (mut parent, _input) = forking("forks::child_reads_waits_and_forks", dir.path());
    let is_granted =
        async |request: &AcquireRequest| matches!(backend.acquire(request).await.unwrap(), AcquireOutcome::Granted(_));
    // Neither of them waits, so they leave no mark.
    let (writer, late) = (request("etl"), reader("marked"));
    assert!(!is_granted(&writer).await, "the parent reads");
    assert!(!is_granted(&late).await, "the parent waits to write");
    let pid = fs::read_to_string(dir.path().join("pid")).unwrap();
    parent.kill();
    until("the end of the part", async || is_granted(&writer).await).await;
    until("the end of the mark", async || is_granted(&late).await).await;
    let killed = Command::new("kill").args(["-KILL", &pid]).status().unwrap();
    assert!(killed.success(), "the child had ended, so it proved nothing");
}

/// The child inherits the file of the parts too, whose byte is the part.
#[test]
// verifies: forked, P12
fn a_part_belongs_to_the_parent_whatever_its_child_does() {
    let dir = tempfile::tempdir().unwrap();
    let (parent, other) = (locker(dir.path()), locker(dir.path()));
    let permit = |locker: &blocking::Locker| {
        let options = LockOptions { mode: Mode::Permit { of: NonZeroU16::MIN }, ..LockOptions::default() };
        locker.lock("etl").options(options).try_acquire().unwrap()
    };
    let TryAcquire::Acquired(guard) = permit(&parent) else { panic!("the permit is free") };
    let (guard, _) = dropped_in_a_child(guard);
    assert!(guard.check().is_ok() && matches!(permit(&other), TryAcquire::Contended(_)), "the child freed the part");
    let (lives, may_end) = (dir.path().join("lives"), dir.path().join("may-end"));
    let (is_alive, ends) = (lives.clone(), may_end.clone());
    let releases = thread::spawn(move || {
        assert!(wait_for("the child", || is_alive.exists()));
        let outcome = (guard.release().unwrap(), matches!(permit(&other), TryAcquire::Acquired(_)));
        fs::write(ends, "").unwrap();
        outcome
    });
    let (_, said) = forked((), |()| {
        fs::write(&lives, "").unwrap();
        assert!(wait_for("the release of the parent", || may_end.exists()));
        "lived".to_owned()
    });
    assert_eq!((said.as_str(), releases.join().unwrap()), ("lived", (Release::Released, true)));
}

/// Both have the process id 1, as a container has whose process starts another container.
#[test]
// verifies: forked
fn a_first_process_and_its_first_process_are_two() {
    let dir = tempfile::tempdir().unwrap();
    run_child(FIRST_PROCESS, "forks::child_is_the_first_process", dir.path());
}

#[test]
fn child_is_the_first_process() {
    let Some(dir) = in_child() else { return };
    assert_eq!(std::process::id(), 1);
    let locker = locker(&dir);
    let guard = locker.acquire("etl").unwrap();
    let ((guard, locker), said) = forked_first((guard, locker), |(guard, locker)| {
        let open = open_lock_files();
        let lost = guard.check().expect_err("the child does not hold the lock").reason;
        drop(guard);
        format!("{lost:?}; {open} open; {}; {}", attempt(&locker, "etl"), attempt(&locker, "other"))
    });
    let lost = LossReason::Forked { parent: 1 };
    assert_eq!(said, format!("{lost:?}; 0 open; etl contended; other acquired, Ok(Released)"));
    assert!(guard.check().is_ok() && !is_free(&dir), "the child dropped its copy of the guard");
    let (guard, released) = forked_first(guard, |guard| format!("{:?}", guard.release()));
    assert_eq!(released, "Ok(NotHeld(None))");
    assert!(guard.check().is_ok() && !is_free(&dir), "the child released its copy of the guard");
    assert_eq!(open_lock_files(), 1, "the parent keeps its file open");
    assert_eq!(guard.release().unwrap(), Release::Released);
    assert!(is_free(&dir));
    drop(locker);
    println!("CHILD RAN");
}

/// Starts a process that is the first of its PID namespace.
const FIRST_PROCESS: &[&str] = &["unshare", "--user", "--map-root-user", "--pid", "--fork"];

/// Forks a child that is the first process of a PID namespace; see [`forked`].
fn forked_first<T>(value: T, work: impl FnOnce(T) -> String) -> (T, String) {
    // This process could start no thread while its children get another namespace.
    let own = File::open("/proc/self/ns/pid").unwrap();
    children_get_a_namespace(None);
    let answered = forked(value, |value| {
        assert_eq!(std::process::id(), 1);
        work(value)
    });
    children_get_a_namespace(Some(&own));
    answered
}

/// Chooses the PID namespace of the children forked from now on: a new one, or `own`.
#[expect(unsafe_code, reason = "no wrapper of these calls is enabled")]
fn children_get_a_namespace(own: Option<&File>) {
    // SAFETY: both calls change only the namespace of later children.
    let result = unsafe {
        match own {
            None => libc::unshare(libc::CLONE_NEWPID),
            Some(own) => libc::setns(own.as_raw_fd(), libc::CLONE_NEWPID),
        }
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Counts the descriptors of this process that have a lock file open.
fn open_lock_files() -> usize {
    let target = |entry: std::io::Result<fs::DirEntry>| fs::read_link(entry.unwrap().path()).ok();
    let is_lock = |path: &PathBuf| path.ends_with("etl.lock");
    fs::read_dir("/proc/self/fd").unwrap().filter_map(target).filter(is_lock).count()
}

#[test]
fn child_holds_a_lock_and_forks() {
    let Some(dir) = in_child() else { return };
    let locker = locker(&dir);
    let _guard = locker.acquire("etl").unwrap();
    fork_and_wait(&dir);
}

#[test]
fn child_reads_waits_and_forks() {
    let Some(dir) = in_child() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let backend = FileBackend::open(&dir).unwrap();
    // Neither the part nor the mark ends by itself during the test.
    let long = |name: &str| request(name).with_ttl(Duration::from_secs(600));
    runtime.block_on(async {
        grant(&backend, &long("etl").with_mode(Mode::Shared)).await;
        let waiting = backend.acquire(&long("marked").with_waits(true)).await.unwrap();
        assert!(matches!(waiting, AcquireOutcome::Contended(_)), "{waiting:?}");
    });
    fork_and_wait(&dir);
}

/// Forks a child that writes its id and lives until the end of its input.
fn fork_and_wait(dir: &Path) {
    forked((), |()| {
        fs::write(dir.join("pid"), std::process::id().to_string()).unwrap();
        println!("CHILD FORKED");
        wait_for_the_end_of_input();
        "ended".to_owned()
    });
}
