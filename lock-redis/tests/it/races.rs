//! Many contenders for one lock in all modes: never more holders than the mode allows.

use std::{
    collections::HashSet,
    num::NonZeroU16,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use lock_core::{Locker, Mode, TryAcquire, backend::Backend};
use lock_redis::RedisBackend;
use test_support::lost_messages::Network as _;

use crate::fixture::{Fixture, JOB, locker};

/// Long enough for a busy machine.
const TTL: Duration = Duration::from_secs(60);

fn permits(of: u16) -> Mode {
    Mode::Permit { of: NonZeroU16::new(of).unwrap() }
}

/// Who holds the lock, as the holders themselves know.
#[derive(Default)]
struct Held {
    by_mode: [AtomicU32; 3],
    most: [AtomicU32; 3],
    tokens: Mutex<HashSet<u64>>,
}

impl Held {
    fn index(mode: Mode) -> usize {
        match mode {
            Mode::Shared => 1,
            Mode::Permit { .. } => 2,
            _ => 0,
        }
    }

    /// Does the work of one holder, and checks that all others may hold the lock beside it.
    async fn work(&self, mode: Mode, token: u64) {
        assert!(self.tokens.lock().unwrap().insert(token), "token {token} was given twice");
        let (mine, most) = (Self::index(mode), if let Mode::Permit { of } = mode { of.get().into() } else { 1000 });
        let now = self.by_mode[mine].fetch_add(1, SeqCst) + 1;
        self.most[mine].fetch_max(now, SeqCst);
        let most = if mode == Mode::Exclusive { 1 } else { most };
        for _ in 0..3 {
            let others =
                (0..3).filter(|other| *other != mine).map(|other| self.by_mode[other].load(SeqCst)).sum::<u32>();
            assert!(now <= most && others == 0, "{now} hold the lock in mode {mode}, and {others} in others");
            tokio::task::yield_now().await;
        }
        self.by_mode[mine].fetch_sub(1, SeqCst);
    }
}

/// Acquires, works and releases so often. The network may fail meanwhile.
async fn contend(locker: Locker, held: Arc<Held>, modes: Vec<Mode>, rounds: usize) {
    for round in 0..rounds {
        let mode = modes[round % modes.len()];
        let guard = loop {
            match locker.lock(JOB).mode(mode).acquire().await {
                Ok(guard) => break guard,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        };
        held.work(mode, guard.token().unwrap().get()).await;
        let _ = guard.release().await;
    }
}

/// Lets eight contenders, each with a connection of its own, take the lock in turn in `modes`.
async fn race(fixture: &Fixture, modes: &[Mode], rounds: usize, cut: bool) -> Arc<Held> {
    let held = Arc::new(Held::default());
    let contenders: Vec<_> = (0..8)
        .map(|first| {
            // A lock whose release was lost ends with its ttl.
            let ttl = if cut { TTL / 6 } else { TTL };
            let locker = locker(RedisBackend::new(fixture.config.clone()).unwrap(), ttl);
            let mut modes = modes.to_vec();
            let turn = first % modes.len();
            modes.rotate_left(turn);
            tokio::spawn(contend(locker, Arc::clone(&held), modes, rounds))
        })
        .collect();
    while cut && !contenders.iter().all(tokio::task::JoinHandle::is_finished) {
        // The pause between cuts is long enough for some requests to succeed.
        tokio::time::sleep(Duration::from_millis(100)).await;
        fixture.cut();
    }
    for contender in contenders {
        contender.await.unwrap();
    }
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
// verifies: P12, contention
async fn never_more_hold_than_there_are_permits() {
    for fixture in [Fixture::standalone().await, Fixture::cluster().await] {
        let held = race(&fixture, &[permits(3)], 100, false).await;
        assert_eq!(held.most[2].load(SeqCst), 3, "all permits were used at a time");
        assert_eq!(held.tokens.lock().unwrap().len(), 800);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
// verifies: P12, contention
async fn writers_are_alone_and_readers_together() {
    let fixture = Fixture::standalone().await;
    let held = race(&fixture, &[Mode::Shared, Mode::Shared, Mode::Shared, Mode::Exclusive], 100, false).await;
    assert!(held.most[1].load(SeqCst) > 1, "readers held the lock together");
    assert_eq!(held.tokens.lock().unwrap().len(), 800);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
// verifies: P12, contention
async fn all_modes_take_turns() {
    let fixture = Fixture::standalone().await;
    let held = race(&fixture, &[Mode::Shared, permits(2), Mode::Exclusive], 60, false).await;
    assert_eq!(held.tokens.lock().unwrap().len(), 480);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
// verifies: P12, contention
async fn modes_exclude_each_other_while_the_network_cuts() {
    for fixture in [Fixture::standalone().await, Fixture::tls().await, Fixture::sentinel().await] {
        race(&fixture, &[Mode::Shared, permits(2), Mode::Exclusive], 6, true).await;
    }
    race(&Fixture::cluster().await, &[permits(2), Mode::Shared, Mode::Exclusive], 4, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
// verifies: P12, contention
async fn readers_and_writers_of_a_quorum_exclude_each_other() {
    let fixture = Fixture::quorum().await;
    // By single attempts, because contenders may all miss a majority.
    let held = Arc::new(Held::default());
    let contenders: Vec<_> = (0..4)
        .map(|n| {
            let locker = locker(RedisBackend::new(fixture.config.clone().timeout(TTL)).unwrap(), TTL);
            let held = Arc::clone(&held);
            tokio::spawn(async move {
                let mode = if n == 0 { Mode::Exclusive } else { Mode::Shared };
                let mut rounds = 0;
                while rounds < 10 {
                    if let TryAcquire::Acquired(guard) = locker.lock(JOB).mode(mode).try_acquire().await.unwrap() {
                        held.work(mode, guard.token().unwrap().get()).await;
                        guard.release().await.unwrap();
                        rounds += 1;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        })
        .collect();
    for contender in contenders {
        contender.await.unwrap();
    }
    assert!(!fixture.direct.capabilities().permits);
}
