//! A fleet of real processes moves from files to Redis, one after the other, while it works.

use std::{
    fs,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use test_support::redis::RedisServer;

use super::fixture::{Locks, code, eventually, onelock, output, read};

const WORKERS: usize = 4;

/// Notices whoever else is in, and notes its token in the order of the locks.
const SECTION: &str = r#"mkdir "$1/inside" 2>/dev/null || { echo "$ONELOCK_TOKEN" >>"$1/violations"; exit 9; }
echo "$ONELOCK_TOKEN" >>"$1/tokens"
sleep 0.01
rmdir "$1/inside"
"#;

/// Each worker runs the job again and again, with the store that it has been told last.
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

    /// Everybody has had the lock with the stores as they are now.
    fn settle(&self) {
        for rounds in &self.rounds {
            let before = rounds.load(Ordering::Relaxed);
            // One may have begun with the store that was told before.
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

/// Tells it to stop also when an assertion fails, or the test would never end.
struct Stop<'a, 'b>(&'a Fleet<'b>);

impl Drop for Stop<'_, '_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_fleet_moves_from_files_to_redis_and_no_two_ever_hold_the_lock() {
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
    assert!(!fs::exists(locks.dir.path().join("violations")).unwrap(), "two were in at once");
    let tokens: Vec<u64> = read(locks.dir.path().join("tokens")).lines().map(|token| token.parse().unwrap()).collect();
    let rounds: usize = fleet.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed)).sum();
    assert_eq!(tokens.len(), rounds);
    assert!(tokens.is_sorted_by(|a, b| a < b), "tokens must rise: {tokens:?}");
    println!("{rounds} runs, from files through the chain to Redis");
}

#[test]
fn a_chain_of_files_and_redis_refuses_what_it_cannot_keep() {
    let (locks, server) = (Locks::new(), RedisServer::start());
    let chain = format!("migrate:?from={}&to=redis://{}", locks.url(), server.addr());
    let no_fork = output(&mut onelock(["run", "--url", &chain, "--no-fork", "x", "true"]));
    assert_eq!(no_fork.status.code(), Some(64), "nobody would renew the lease: {no_fork:?}");
    assert_eq!(code(&mut onelock(["run", "--url", &chain, "--ttl", "10s", "x", "true"])), 78);
    let doctor = output(&mut onelock(["doctor", "--json", "--url", &chain]));
    assert_eq!(doctor.status.code(), Some(0), "{doctor:?}");
}
