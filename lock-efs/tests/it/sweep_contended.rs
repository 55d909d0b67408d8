//! Sweeps in a loop under contending processes: no two hold a lock at once, and no token falls.

use std::{
    fs::File,
    io::{Read, Seek},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::fixture::{self, Process, in_child, myself, open};
use lock_core::{Locker, backend::Release};
use lock_efs::{FileBackend, Sweep};
use test_support::{monotonic_nanos, python::python};

/// Long enough for tens of thousands of acquisitions.
const TIME: Duration = Duration::from_secs(20);
const NAMES: [&str; 2] = ["s0", "s1"];

/// Acquires and releases a lock as Python programs do, and prints each cycle like
/// [`child_contends`].
const FILELOCK: &str = "import filelock, sys, time
lock = filelock.FileLock(sys.argv[1], poll_interval=0.002)
while True:
    with lock:
        start = time.monotonic_ns()
        time.sleep(0.001)
        end = time.monotonic_ns()
    print('cycle', sys.argv[2], 0, start, end, flush=True)
    time.sleep(0.005)
";

#[test]
fn sweeps_under_contention_keep_exclusion_and_rising_tokens() {
    let (dir, backend) = open();
    let mut contenders: Vec<_> =
        (0..6).map(|_| spawn(&myself("sweep_contended::child_contends", dir.path()))).collect();
    for name in NAMES {
        let path = backend.lock_path(&fixture::name(name));
        let python = python().display().to_string();
        contenders.push(spawn(&[python, "-c".into(), FILELOCK.into(), path.display().to_string(), name.into()]));
    }
    let end = Instant::now() + TIME;
    let mut removed = 0;
    while Instant::now() < end {
        removed += backend.sweep(Sweep::new(Duration::ZERO)).unwrap().removed.len();
        // A pause between sweeps, so that contenders can acquire the lock.
        std::thread::sleep(Duration::from_millis(1));
    }
    let said: String = contenders.into_iter().map(all_it_said).collect();
    let (mut ours, mut foreign) = (0, 0);
    for name in NAMES {
        let mut cycles: Vec<[i64; 3]> = said.lines().filter_map(|line| cycle(line, name)).collect();
        cycles.sort_unstable();
        for pair in cycles.windows(2) {
            assert!(pair[0][1] < pair[1][0], "two clients held {name} at once: {pair:?}");
        }
        foreign += cycles.iter().filter(|[.., token]| *token == 0).count();
        cycles.retain(|[.., token]| *token > 0);
        ours += cycles.len();
        for pair in cycles.windows(2) {
            assert!(pair[0][2] < pair[1][2], "a token of {name} fell: {pair:?}");
        }
    }
    println!("{ours} acquisitions by onelock and {foreign} by filelock, {removed} removed names");
    assert!(
        ours > 0 && foreign > 0 && removed > 0,
        "the test did not exercise all parts: {ours}, {foreign}, {removed}"
    );
}

/// Starts a process that prints to a file. A pipe would fill up, because the test reads the output
/// only at the end.
fn spawn(command: &[String]) -> (Process, File) {
    let out = tempfile::tempfile().unwrap();
    let stdout = out.try_clone().unwrap();
    let child = Command::new(&command[0]).args(&command[1..]).stdin(Stdio::null()).stdout(stdout).spawn();
    (Process(child.unwrap_or_else(|e| panic!("{command:?}: {e}"))), out)
}

/// Kills the process and returns its output. The process must still have been running.
fn all_it_said((mut process, mut out): (Process, File)) -> String {
    let ended = process.0.try_wait().unwrap();
    process.kill();
    let mut said = String::new();
    out.rewind().unwrap();
    out.read_to_string(&mut said).unwrap();
    assert!(ended.is_none(), "a contender failed with {ended:?}:\n{}", said.lines().last().unwrap_or_default());
    said + "\n"
}

/// Returns when `name` was held, and with which token, if `line` is a complete cycle of `name`.
fn cycle(line: &str, name: &str) -> Option<[i64; 3]> {
    let mut words = line.strip_prefix("cycle ")?.strip_prefix(name)?.split_whitespace().map(str::parse);
    let (token, start, end) = (words.next()?.ok()?, words.next()?.ok()?, words.next()?.ok()?);
    Some([start, end, token])
}

#[tokio::test]
async fn child_contends() {
    let Some(dir) = in_child() else { return };
    let locker = Locker::new(FileBackend::open(&dir).unwrap()).unwrap();
    for name in NAMES.into_iter().cycle() {
        let guard = locker.acquire(name).await.unwrap();
        let start = monotonic_nanos();
        // The work that the lock protects.
        tokio::time::sleep(Duration::from_millis(1)).await;
        guard.check().unwrap();
        let (end, token) = (monotonic_nanos(), guard.token().unwrap());
        assert_eq!(guard.release().await.unwrap(), Release::Released);
        println!("cycle {name} {token} {start} {end}");
    }
}
