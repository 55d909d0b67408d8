//! Locks shared with the real `flock(1)` and Python's `filelock`.

use std::{
    fs,
    num::NonZeroU32,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{self, Command},
    time::Duration,
};

use crate::fixture::{Process, grant, name, open, refused, request};
use lock_core::{
    Holder, Mode,
    backend::{Admin, Backend, ProcessBound, Renewal},
};

const HOLD: &str = "import filelock, sys, time
with filelock.FileLock(sys.argv[1]):
    print('locked', flush=True)
    time.sleep(600)";

const TRY: &str = "import filelock, sys
try:
    filelock.FileLock(sys.argv[1], timeout=0).acquire()
except filelock.Timeout:
    sys.exit(3)";

#[tokio::test]
async fn flock_1_is_refused_until_onelock_releases() {
    let (_dir, backend) = open();
    let (_, lease) = grant(&backend, &request("etl")).await;
    let path = backend.lock_path(&name("etl"));
    let flock = || Command::new("flock").args(["-n", "-E", "9"]).arg(&path).arg("true").status().unwrap().code();
    assert_eq!(flock(), Some(9));
    assert!(backend.release_now(&lease, Duration::ZERO));
    assert_eq!(flock(), Some(0));
}

#[tokio::test]
async fn onelock_is_refused_until_flock_1_is_killed() {
    let (_dir, backend) = open();
    let path = backend.lock_path(&name("etl"));
    let mut flock = Process::start(&["flock", "-F", path.to_str().unwrap(), "sh", "-c", "echo locked; exec sleep 600"]);
    flock.wait_for("locked");
    let foreign = refused(&backend, "etl").await.foreign;
    assert_eq!(foreign.as_deref(), Some("a flock(2) holder without a record"));
    let process = format!("process {} (", flock.0.id());
    let foreign = backend.inspect(&name("etl")).await.unwrap().unwrap().foreign;
    assert!(
        foreign.as_ref().is_some_and(|f| f.starts_with(&process) && f.ends_with(") without a record")),
        "{foreign:?}"
    );
    assert_eq!(backend.list("").await.unwrap().locks.len(), 1);
    flock.kill();
    assert_eq!(grant(&backend, &request("etl")).await.0.crashed, None);
}

#[tokio::test]
// verifies: P12
async fn flock_1_is_shown_in_the_mode_of_its_lock() {
    let (_dir, backend) = open();
    let path = backend.lock_path(&name("etl"));
    for (option, mode) in [("-s", Mode::Shared), ("-x", Mode::Exclusive)] {
        let hold = ["flock", option, "-F", path.to_str().unwrap(), "sh", "-c", "echo locked; exec sleep 600"];
        let mut flock = Process::start(&hold);
        flock.wait_for("locked");
        assert_eq!(backend.inspect(&name("etl")).await.unwrap().unwrap().mode, mode);
        assert_eq!(backend.list("").await.unwrap().locks[0].1.mode, mode);
        flock.kill();
    }
}

#[tokio::test]
async fn the_living_holder_is_named_after_a_crash() {
    let (dir, backend) = open();
    let (_, lease) = grant(&backend, &request("etl")).await;
    let info = dir.path().join("etl.info");
    let held = fs::read_to_string(&info).unwrap();
    assert!(backend.release_now(&lease, Duration::ZERO));
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let path = backend.lock_path(&name("etl"));
    let mut flock = Process::start(&["flock", "-F", path.to_str().unwrap(), "sh", "-c", "echo locked; kill -STOP $$"]);
    flock.wait_for("locked");
    let pid = |pid: u32| format!("\"pid\":{pid},");
    let [own, namespace] = [pid(process::id()), "\"pid_namespace\":".to_owned()];
    assert!(held.contains(&own) && held.contains(&namespace), "{held}");

    // The recorded process has ended.
    fs::write(&info, held.replace(&own, &pid(dead.id()))).unwrap();
    let holder = Holder::default()
        .with_foreign(format!("process {} (sh) without a record", flock.0.id()))
        .with_process(NonZeroU32::new(flock.0.id()));
    assert_eq!(refused(&backend, "etl").await, holder);
    assert_eq!(backend.inspect(&name("etl")).await.unwrap(), Some(holder.clone()));
    assert_eq!(backend.list("").await.unwrap().locks, [(name("etl"), holder)]);

    // The recorded process may be alive: it has the number of a living one, or another namespace.
    let other_namespace = held.replace(&own, &pid(dead.id())).replace(&namespace, "\"pid_namespace\":1");
    for record in [held, other_namespace] {
        fs::write(&info, record).unwrap();
        assert_eq!(backend.inspect(&name("etl")).await.unwrap().unwrap().owner.as_deref(), Some("tester"));
    }
}

/// The kernel goes on to list the process that locked the file, although it has ended.
#[tokio::test]
async fn a_lock_kept_by_a_child_belongs_to_the_recorded_process() {
    let (dir, backend) = open();
    let (_, lease) = grant(&backend, &request("etl")).await;
    let info = dir.path().join("etl.info");
    let held = fs::read_to_string(&info).unwrap();
    assert!(backend.release_now(&lease, Duration::ZERO));
    let path = backend.lock_path(&name("etl"));
    let mut child =
        Process::start(&["sh", "-c", "exec 9<$0; flock 9; echo locked; kill -STOP $$", path.to_str().unwrap()]);
    child.wait_for("locked");
    let inode = format!(":{} ", fs::metadata(&path).unwrap().ino());
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let listed = locks.lines().find(|line| line.contains("FLOCK") && line.contains(&inode)).unwrap();
    let listed: u32 = listed.split_whitespace().nth(4).unwrap().parse().unwrap();
    assert!(!Path::new(&format!("/proc/{listed}")).exists(), "flock(1) has ended");
    fs::write(&info, held.replace(&format!("\"pid\":{},", process::id()), &format!("\"pid\":{listed},"))).unwrap();
    assert_eq!(backend.inspect(&name("etl")).await.unwrap().unwrap().owner.as_deref(), Some("tester"));
}

#[tokio::test]
async fn a_shared_flock_1_excludes_onelock_and_is_listed() {
    let (_dir, backend) = open();
    let path = backend.lock_path(&name("etl"));
    let mut flock =
        Process::start(&["flock", "-s", "-F", path.to_str().unwrap(), "sh", "-c", "echo locked; exec sleep 600"]);
    flock.wait_for("locked");
    refused(&backend, "etl").await;
    assert!(backend.inspect(&name("etl")).await.unwrap().is_some());
}

#[tokio::test]
// verifies: foreign-client
async fn filelock_is_refused_until_onelock_releases() {
    let (_dir, backend) = open();
    let (_, lease) = grant(&backend, &request("etl")).await;
    let path = backend.lock_path(&name("etl"));
    let filelock = || python(TRY, &path).status().unwrap().code();
    assert_eq!(filelock(), Some(3));
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed, "the try of filelock did not break the lock");
    assert_eq!(refused(&backend, "etl").await.owner.as_deref(), Some("tester"));
    assert!(backend.release_now(&lease, Duration::ZERO));
    assert_eq!(filelock(), Some(0));
    grant(&backend, &request("etl")).await;
}

#[tokio::test]
async fn onelock_is_refused_until_filelock_is_killed() {
    let (_dir, backend) = open();
    let (before, lease) = grant(&backend, &request("etl")).await;
    assert!(backend.release_now(&lease, Duration::ZERO));
    let path = backend.lock_path(&name("etl"));
    let command = python(HOLD, &path);
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    let mut filelock = Process::start(&words.iter().map(|w| w.to_str().unwrap()).collect::<Vec<_>>());
    filelock.wait_for("locked");
    refused(&backend, "etl").await;
    filelock.kill();
    let (after, _) = grant(&backend, &request("etl")).await;
    assert!(after.token > before.token && after.crashed.is_none());
}

fn python(script: &str, path: &Path) -> Command {
    let mut command = Command::new(test_support::python::python());
    command.arg("-c").arg(script).arg(path);
    command
}
