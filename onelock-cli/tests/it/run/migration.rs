//! A fleet of real processes moves from files to Redis, one process after the other.

use std::{
    fs,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use nix::sys::signal::SIGKILL;
use test_support::redis::RedisServer;

use super::fixture::{Locks, Running, code, eventually, onelock, output, parse_pid, read, stdout};

const WORKERS: usize = 4;

/// Detects another process in the section, and records the tokens in the order of the holds.
const SECTION: &str = r#"mkdir "$1/inside" 2>/dev/null || { echo "$ONELOCK_TOKEN" >>"$1/violations"; exit 9; }
echo "$ONELOCK_TOKEN" >>"$1/tokens"
sleep 0.01
rmdir "$1/inside"
"#;

/// Each worker runs the job repeatedly, with the store that it was told last.
struct Fleet<'a> {
    stores: [Mutex<&'a str>; WORKERS],
    rounds: [AtomicUsize; WORKERS],
    stop: AtomicBool,
}

impl<'a> Fleet<'a> {
    fn work(&self, worker: usize, section: &str, dir: &str) {
        while !self.stop.load(Ordering::Relaxed) {
            let store = *self.stores[worker].lock().unwrap();
            assert_eq!(code(&mut onelock(["run", "--url", store, "job", section, dir])), 0, "{store}");
            self.rounds[worker].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until every worker has held the lock with its current store.
    fn settle(&self) {
        for rounds in &self.rounds {
            let before = rounds.load(Ordering::Relaxed);
            // The first of the two rounds may have started with the previous store.
            eventually("two more rounds of a worker", || rounds.load(Ordering::Relaxed) >= before + 2);
        }
    }

    fn move_to(&self, store: &'a str) {
        for worker in &self.stores {
            *worker.lock().unwrap() = store;
            self.settle();
        }
    }
}

/// Stops the fleet even if an assertion fails, because the test would never end otherwise.
struct Stop<'a, 'b>(&'a Fleet<'b>);

impl Drop for Stop<'_, '_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_migration_from_files_to_redis_keeps_exclusion() {
    let (locks, server) = (Locks::new(), RedisServer::start());
    let (old, new) = (locks.url(), format!("redis://{}", server.addr()));
    let chain = format!("migrate:?from={old}&to={new}&lease=20s");
    let (section, dir) = (locks.script("sh", SECTION), locks.dir.path().to_str().unwrap());
    let fleet = Fleet {
        stores: std::array::from_fn(|_| Mutex::new(old.as_str())),
        rounds: Default::default(),
        stop: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        let _stop = Stop(&fleet);
        for worker in 0..WORKERS {
            let (fleet, section) = (&fleet, &section);
            scope.spawn(move || fleet.work(worker, section, dir));
        }
        fleet.settle();
        fleet.move_to(&chain);
        fleet.move_to(&new);
    });
    assert!(!fs::exists(locks.dir.path().join("violations")).unwrap(), "two processes were in the section at once");
    let tokens: Vec<u64> = read(locks.dir.path().join("tokens")).lines().map(|token| token.parse().unwrap()).collect();
    let rounds: usize = fleet.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed)).sum();
    assert_eq!(tokens.len(), rounds);
    assert!(tokens.is_sorted_by(|a, b| a < b), "tokens must rise: {tokens:?}");
    println!("{rounds} runs, from files through the migration to Redis");
}

#[test]
fn a_migration_refuses_options_that_it_cannot_keep() {
    let (locks, server) = (Locks::new(), RedisServer::start());
    let chain = format!("migrate:?from={}&to=redis://{}", locks.url(), server.addr());
    let no_fork = output(&mut onelock(["run", "--url", &chain, "--no-fork", "x", "true"]));
    assert_eq!(no_fork.status.code(), Some(64), "no process would renew the lease: {no_fork:?}");
    // Its `lease` stands in place of a ttl, which is not used, as on files.
    assert_eq!(code(&mut onelock(["run", "--url", &chain, "--ttl", "10s", "x", "true"])), 0);
    assert_eq!(code(&mut onelock(["run", "--url", &format!("{chain}&ttl=10s"), "x", "true"])), 78);
    let doctor = output(&mut onelock(["doctor", "--json", "--url", &chain]));
    assert_eq!(doctor.status.code(), Some(0), "{doctor:?}");
}

#[test]
fn a_killed_onelock_keeps_both_directories_locked() {
    let (old, new) = (Locks::new(), Locks::new());
    let chain = format!("migrate:?from={}&to={}", old.url(), new.url());
    let mut running = Running::start(&mut onelock(["run", "--url", &chain, "x", "-c", "echo $$; exec sleep 1000"]));
    let command = parse_pid(&running.line());
    running.signal(SIGKILL);
    for locks in [&new, &old] {
        locks.dead_before_free(&[command]);
    }
}

#[test]
fn asking_a_migration_creates_neither_directory() {
    let (old, new) = (Locks::new(), Locks::new());
    let chain = format!("migrate:?from={}&to={}", old.url(), new.url());
    for args in [&["status"][..], &["list"], &["break", "--if-version", "1"]] {
        let asked = output(onelock([]).args(args).args(["--url", &chain]).args((args[0] != "list").then_some("x")));
        let message = String::from_utf8(asked.stderr).unwrap();
        assert_eq!((asked.status.code(), asked.stdout.len()), (Some(73), 0), "{args:?}: {message}");
        assert!(message.contains(&format!("{}/locks does not exist", old.dir.path().display())), "{message}");
        assert!(
            !fs::exists(old.dir.path().join("locks")).unwrap() && !fs::exists(new.dir.path().join("locks")).unwrap()
        );
    }
}

#[test]
fn a_break_that_frees_one_half_is_refused() {
    let (locks, server) = (Locks::new(), RedisServer::start());
    let redis = format!("redis://{}", server.addr());
    let chain = format!("migrate:?from={}&to={redis}", locks.url());
    let mut running = Running::start(&mut onelock(["run", "--url", &chain, "x", "-c", "echo held; exec sleep 1000"]));
    running.expect_line("held");
    let status = stdout(&mut onelock(["status", "--json", "--url", &chain, "x"]));
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert!(status["version"].is_null(), "{status}");
    let refused = output(&mut onelock(["break", "--url", &chain, "--if-version", "1", "x"]));
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");
    assert!(!locks.is_free());
    assert!(stdout(&mut onelock(["list", "--url", &redis])).contains("\nx "), "the lock in Redis was broken");
}
