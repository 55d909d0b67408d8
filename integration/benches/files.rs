//! Measures file locks in one run: `cargo bench -p integration --bench files`.
//!
//! - The cycle against the bare system calls.
//! - The hand-off to a waiting process, against a process that is blocked in the kernel.
//! - `onelock run` against `flock(1)`.
//!
//! The output ends with a table of medians and their ratios.

use std::{
    fs::{self, File, OpenOptions},
    hint::black_box,
    io::{BufRead, BufReader, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use criterion::Criterion;
use lock_core::{
    LockName, Locker, TryAcquire,
    backend::{AcquireOutcome, AcquireRequest, Backend, LeaseId},
};
use lock_efs::FileBackend;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use test_support::{
    monotonic_nanos,
    report::{Row, table},
};

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(40)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    for (medium, parent) in [("tmpfs", "/dev/shm"), ("disk", "/var/tmp")] {
        let dir = tempfile::tempdir_in(parent).expect("a directory for the benchmark");
        cycle(&mut criterion, medium, dir.path());
    }
    let dir = tempfile::tempdir().expect("a directory for the benchmark");
    hand_off(&mut criterion, dir.path());
    command(&mut criterion, dir.path());
    criterion.final_summary();
    table(&[
        Row::new("cycle/tmpfs/locker", "cycle/tmpfs/same promises"),
        Row::new("cycle/tmpfs/backend", "cycle/tmpfs/same promises"),
        Row::new("cycle/tmpfs/locker", "cycle/tmpfs/open flock close"),
        Row::new("cycle/disk/locker", "cycle/disk/same promises"),
        Row::new("cycle/disk/backend", "cycle/disk/same promises"),
        Row::new("cycle/disk/locker", "cycle/disk/open flock close"),
        Row::new("hand-off/onelock", "hand-off/blocked in the kernel"),
        Row::new("command/onelock run", "command/flock"),
    ]);
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).expect("the directory is ours")
}

/// Makes the system calls that the guarantees require. It locks the file and checks that the name
/// still means it, replaces a record with a token atomically, and marks the record as released.
fn same_promises(dir: &Path, record: &[u8]) {
    let (lock, info, spare) = (dir.join("raw.lock"), dir.join("raw.info"), dir.join("raw.prev"));
    let file = open(&lock);
    file.lock().expect("no other process locks the file");
    let (locked, named) = (file.metadata().expect("open"), fs::symlink_metadata(&lock).expect("there"));
    assert_eq!((locked.dev(), locked.ino()), (named.dev(), named.ino()));
    black_box(fs::read(&info).unwrap_or_default());
    let sidecar =
        OpenOptions::new().write(true).create(true).truncate(false).open(&spare).expect("the directory is ours");
    sidecar.write_all_at(record, 0).expect("there is space");
    if renameat2(AT_FDCWD, &spare, AT_FDCWD, &info, RenameFlags::RENAME_EXCHANGE).is_err() {
        fs::rename(&spare, &info).expect("the directory is ours");
    }
    sidecar.write_all_at(b"onelock/1 released", 0).expect("there is space");
    file.unlock().expect("it is locked");
}

fn cycle(criterion: &mut Criterion, medium: &str, dir: &Path) {
    let mut group = criterion.benchmark_group(format!("cycle/{medium}"));
    let plain = dir.join("plain.lock");
    group.bench_function("open flock close", |b| {
        b.iter(|| {
            let file = open(&plain);
            file.lock().expect("no other process locks the file");
        });
    });
    let record = vec![b'x'; 250];
    group.bench_function("same promises", |b| b.iter(|| same_promises(dir, &record)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let backend = FileBackend::open(dir).expect("a directory of ours");
    let name = LockName::new("backend").expect("a name");
    group.bench_function("backend", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let request = AcquireRequest::new(name.clone(), LeaseId::random(), "bench");
                let Ok(AcquireOutcome::Granted(grant)) = backend.acquire(&request).await else { panic!("it is free") };
                backend.release(&request.lease(grant.token), Duration::ZERO).await.expect("it is held")
            })
        });
    });
    let locker = Locker::new(FileBackend::open(dir).expect("a directory of ours")).expect("defaults");
    group.bench_function("locker", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let Ok(TryAcquire::Acquired(guard)) = locker.try_acquire("locker").await else { panic!("it is free") };
                guard.release().await.expect("it is held")
            })
        });
    });
    group.finish();
}

/// A process that waits for the lock on command.
struct Waiter {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Waiter {
    fn start(how: &str, dir: &Path) -> Self {
        let program = beside_this_one("waiter");
        let mut child = Command::new(program)
            .args([how, dir.to_str().expect("a temporary directory"), how])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the waiter was built with the benchmark");
        let commands = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, commands, answers }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the waiter lives");
        line.trim_end().to_owned()
    }

    /// Returns the time from just before `release` until the waiter has the lock.
    fn hand_over<T>(&mut self, held: T, release: impl FnOnce(T)) -> Duration {
        writeln!(self.commands).expect("the waiter lives");
        assert_eq!(self.line(), "waiting");
        // Waits until the process sleeps.
        std::thread::sleep(Duration::from_millis(3));
        let released = monotonic_nanos();
        release(held);
        let got = self.line().parse::<i64>().expect("nanoseconds");
        Duration::from_nanos(u64::try_from(got - released).unwrap_or_default())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn beside_this_one(program: &str) -> PathBuf {
    let this = std::env::current_exe().expect("this program has a path");
    this.ancestors().nth(2).expect("target/release/deps/this").join(program)
}

fn hand_off(criterion: &mut Criterion, dir: &Path) {
    let mut group = criterion.benchmark_group("hand-off");
    group.sample_size(30).measurement_time(Duration::from_secs(4));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let locker = Locker::new(FileBackend::open(dir).expect("a directory of ours")).expect("defaults");
    let mut waiter = Waiter::start("onelock", dir);
    group.bench_function("onelock", |b| {
        b.iter_custom(|times| {
            let once = |_| {
                let guard = runtime.block_on(locker.acquire("onelock")).expect("it becomes free");
                waiter.hand_over(guard, |guard| drop(runtime.block_on(guard.release())))
            };
            (0..times).map(once).sum()
        });
    });
    let mut waiter = Waiter::start("flock", dir);
    group.bench_function("blocked in the kernel", |b| {
        b.iter_custom(|times| {
            let once = |_| {
                let file = open(&dir.join("flock.lock"));
                file.lock().expect("it becomes free");
                waiter.hand_over(file, drop)
            };
            (0..times).map(once).sum()
        });
    });
    group.finish();
}

fn command(criterion: &mut Criterion, dir: &Path) {
    let cargo = std::env::var_os("CARGO").expect("run by cargo bench");
    let built =
        Command::new(cargo).args(["build", "--release", "-q", "-p", "onelock-cli", "--bin", "onelock"]).status();
    assert!(built.is_ok_and(|status| status.success()), "cargo build --release -p onelock-cli failed");
    let mut group = criterion.benchmark_group("command");
    group.sample_size(40).measurement_time(Duration::from_secs(5));
    let url = format!("file://{}", dir.join("command").display());
    let onelock = beside_this_one("onelock");
    group.bench_function("onelock run", |b| {
        b.iter(|| run(Command::new(&onelock).args(["run", "--url", &url, "n", "--", "true"])));
    });
    group.bench_function("flock", |b| b.iter(|| run(Command::new("flock").arg(dir.join("x")).arg("true"))));
    group.bench_function("true", |b| b.iter(|| run(&mut Command::new("true"))));
    group.finish();
}

fn run(command: &mut Command) {
    assert!(command.status().expect("it starts").success());
}
