//! A shell ETL job over 100,000 rows, of which two copies run at once and one is killed at random.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::SIGKILL;

use super::fixture::{Locks, Running, code, read};

const ROWS: usize = 100_000;
const ROUNDS: u64 = 50;
/// How many rounds there are if all kills hit, or all miss. On a busy machine a load takes longer
/// at times.
const MOST_ROUNDS: u64 = 200;

/// Appends the transformed rows to the output in many small writes, and commits the new length in
/// one step.
///
/// It first truncates an unfinished load, as every restartable job has to. Only the lock ensures
/// that no other copy is still writing that load.
const JOB: &str = r#"set -e
cd "$1"
touch loaded.csv
truncate -s "$(cat committed 2>/dev/null || echo 0)" loaded.csv
[ "$2" = recover ] && exit
echo "begin $$" >>history
awk -F, '{ printf "%d,%s,%.2f\n", $1, toupper($2), $3 * 1.19; if (NR % 1000 == 0) fflush() }' source.csv >>loaded.csv
stat -c %s loaded.csv >committed.new
mv committed.new committed
echo "end $$" >>history
"#;

fn source(dir: &Path) {
    let rows: String = (0..ROWS).map(|i| format!("{i},item-{},{}.5\n", i % 97, i % 1_000)).collect();
    fs::write(dir.join("source.csv"), rows).unwrap();
}

/// Returns the output of one load, and the time that it took.
fn one_load(locks: &Locks, job: &str) -> (Vec<u8>, Duration) {
    let (dir, began) = (locks.dir.path(), Instant::now());
    assert_eq!(code(&mut locks.run(["x", job, dir.to_str().unwrap(), "load"])), 0);
    (fs::read(dir.join("loaded.csv")).unwrap(), began.elapsed())
}

fn start_over(dir: &Path) {
    for file in ["loaded.csv", "committed", "history"] {
        let _ = fs::remove_file(dir.join(file));
    }
}

#[test]
fn a_killed_job_never_writes_beside_the_next_one() {
    let locks = Locks::new();
    let dir = locks.dir.path();
    source(dir);
    let job = locks.script("sh", JOB);
    let (load, takes) = one_load(&locks, &job);
    assert_eq!(load.iter().filter(|byte| **byte == b'\n').count(), ROWS);
    let (mut complete, mut round) = (0, 0);
    let varies = |complete, rounds| complete > rounds && complete < 2 * rounds;
    while round < ROUNDS || (!varies(complete, round) && round < MOST_ROUNDS) {
        start_over(dir);
        let mut chance = fastrand::Rng::with_seed(round);
        let copy = || Running::start(&mut locks.run(["x", &job, dir.to_str().unwrap(), "load"]));
        let mut copies = vec![copy(), copy()];
        let victim = copies.remove(chance.usize(..2));
        // The kill comes at a random time, before, during or after either copy's load.
        thread::sleep(takes.mul_f64(2.0 * chance.f64()));
        victim.signal(SIGKILL);
        let survivor = copies.remove(0);
        let (status, message) = survivor.wait();
        assert!(status.success(), "round {round}: {status}: {message}");
        victim.wait();

        assert_eq!(code(&mut locks.run(["x", &job, dir.to_str().unwrap(), "recover"])), 0);
        let loaded = fs::read(dir.join("loaded.csv")).unwrap();
        assert_eq!(
            loaded.len() % load.len(),
            0,
            "round {round}: not a whole number of loads\n{}",
            read(dir.join("history"))
        );
        assert!(loaded.chunks(load.len()).all(|part| part == load), "round {round}: interleaved");
        let ended = read(dir.join("history")).lines().filter(|line| line.starts_with("end")).count();
        // A copy may be killed between its commit and its last line.
        let loads = loaded.len() / load.len();
        assert!(
            (1..=2).contains(&loads) && (ended == loads || ended + 1 == loads),
            "round {round}: {loads} loads, {ended} ends"
        );
        complete += loads as u64;
        round += 1;
    }
    assert!(
        varies(complete, round),
        "the kills must hit some loads and miss others: {complete} loads in {round} rounds"
    );
}
