//! How processes that hand a lock over among their tasks share it with each other.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::slow_to_wake::SlowToWake;
use crate::fixture::*;
use lock_core::{Guard, Locker, TryAcquire, testing::TestClock};
use tokio::time::{Instant, sleep};

/// The most hand-overs in a row.
const HAND_OVER: u32 = 3;
const TASKS: usize = 8;

impl SlowToWake {
    /// Returns the tasks of a process that acquire and release until `end`. Each notes `process`
    /// when it has the lock.
    fn process(
        &self,
        process: usize,
        habit: Habit,
        order: &Arc<Mutex<Vec<usize>>>,
        end: Instant,
    ) -> Vec<tokio::task::JoinHandle<()>> {
        let builder = Locker::builder(Arc::new(self.clone())).clock(Arc::new(TestClock::new()));
        let locker = builder.hand_over(HAND_OVER).build().unwrap();
        let work = |task| {
            let (locker, order) = (locker.clone(), Arc::clone(order));
            async move {
                while Instant::now() < end {
                    let Some(guard) = habit.acquire(&locker, task).await else { continue };
                    order.lock().unwrap().push(process);
                    habit.work_and_release(guard).await;
                }
            }
        };
        (0..TASKS).map(|task| tokio::spawn(work(task))).collect()
    }

    /// Lets the processes contend for a minute, and returns which of them had the lock, in order.
    async fn contend(&self, processes: usize) -> Vec<usize> {
        self.contend_for(secs(60), &vec![Duration::ZERO; processes]).await
    }

    /// Lets one process after the other begin, after these pauses. The last one contends for
    /// `time`. Returns which of them had the lock meanwhile, in order.
    async fn contend_for(&self, time: Duration, pauses: &[Duration]) -> Vec<usize> {
        let processes: Vec<_> = pauses.iter().map(|pause| (*pause, Habit::Waits)).collect();
        self.contend_with(time, &processes).await
    }

    /// Like [`contend_for`](Self::contend_for), with the habits of the processes.
    async fn contend_with(&self, time: Duration, processes: &[(Duration, Habit)]) -> Vec<usize> {
        let order = Arc::<Mutex<Vec<_>>>::default();
        let end = Instant::now() + processes.iter().map(|(pause, _)| *pause).sum::<Duration>() + time;
        let mut tasks = Vec::new();
        for (process, (pause, habit)) in processes.iter().enumerate() {
            sleep(*pause).await;
            order.lock().unwrap().clear();
            tasks.extend(self.process(process, *habit, &order, end));
        }
        for task in tasks {
            task.await.unwrap();
        }
        Arc::into_inner(order).unwrap().into_inner().unwrap()
    }
}

/// How the tasks of a process acquire and release.
#[derive(Debug, Clone, Copy)]
enum Habit {
    /// They wait as long as they must.
    Waits,
    /// They wait for up to 300 ms, which is shorter than the time for others may be.
    GivesUp,
    /// Each has data of its own, so none can take the lease of another one.
    HasOwnData,
    /// They drop their guards.
    Drops,
}

impl Habit {
    async fn acquire(self, locker: &Locker, task: usize) -> Option<Guard> {
        let request = locker.lock(NAME);
        match self {
            Self::Waits | Self::Drops => Some(request.acquire().await.unwrap()),
            Self::HasOwnData => Some(request.data(task.to_string()).acquire().await.unwrap()),
            Self::GivesUp => match request.acquire_within(ms(300)).await.unwrap() {
                TryAcquire::Acquired(guard) => Some(guard),
                TryAcquire::Contended(_) => None,
            },
        }
    }

    async fn work_and_release(self, guard: Guard) {
        sleep(ms(1)).await;
        match self {
            Self::Drops => drop(guard),
            _ => drop(guard.release().await.unwrap()),
        }
    }
}

/// Returns how often in a row the lock went to one process.
fn runs(order: &[usize]) -> Vec<usize> {
    order.chunk_by(|a, b| a == b).map(<[usize]>::len).collect()
}

#[tokio::test(start_paused = true)]
// verifies: contention
async fn processes_take_turns_after_each_series() {
    // Where waiters poll, a turn has several series, and is at least as long as their first pause.
    for (wakes, most) in [(true, 1 + HAND_OVER as usize), (false, 80)] {
        let order = SlowToWake::new(wakes, true).contend(2).await;
        let runs = runs(&order);
        // Until both have met.
        let (first, rest) = runs.split_at(4);
        assert!(rest.len() > 100, "wakes={wakes}: {} turns", runs.len());
        let longest = rest.iter().max().unwrap();
        assert!(*longest <= most, "wakes={wakes}: {first:?} and then {rest:?}");
        let share = order.iter().filter(|process| **process == 0).count() * 100 / order.len();
        assert!((45..=55).contains(&share), "wakes={wakes}: {share} %");
    }
}

#[tokio::test(start_paused = true)]
// verifies: contention
async fn more_processes_share_too() {
    for wakes in [true, false] {
        let order = SlowToWake::new(wakes, true).contend(3).await;
        for process in 0..3 {
            let share = order.iter().filter(|other| **other == process).count() * 100 / order.len();
            assert!((20..=47).contains(&share), "wakes={wakes}: process {process} has {share} %");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn processes_that_begin_together_share_from_the_start() {
    let order = SlowToWake::new(true, true).contend_for(secs(1), &[Duration::ZERO; 2]).await;
    // Each acquisition takes a millisecond.
    let alone = runs(&order)[0];
    assert!(alone < 60, "the second process waits for {alone} acquisitions of the first");
    let share = order.iter().filter(|process| **process == 0).count() * 100 / order.len();
    assert!((40..=60).contains(&share), "{share} %");
}

/// Returns the share of the first of two processes since both have had the lock.
async fn share_of_the_first(store: SlowToWake, habits: [Habit; 2]) -> usize {
    let order = store.contend_with(secs(60), &habits.map(|habit| (Duration::ZERO, habit))).await;
    let met = order.iter().position(|process| *process != order[0]).expect("the other process never had the lock");
    order[met..].iter().filter(|process| **process == 0).count() * 100 / (order.len() - met)
}

#[tokio::test(start_paused = true)]
// verifies: contention
async fn unlike_tasks_and_dropped_guards_let_others_have_a_turn() {
    for habit in [Habit::HasOwnData, Habit::Drops] {
        let [wakes, polls] = [true, false].map(|wakes| SlowToWake::new(wakes, true));
        // Longer than others have after a release.
        let is_far = wakes.clone().releasing_in(ms(60));
        for store in [wakes, is_far, polls.clone(), polls.releasing_at_once()] {
            fastrand::seed(7);
            let share = share_of_the_first(store.clone(), [habit; 2]).await;
            assert!((40..=60).contains(&share), "{habit:?} at {store:?}: {share} %");
        }
    }
}

#[tokio::test(start_paused = true)]
// verifies: contention
async fn short_waits_do_not_keep_others_out() {
    for seed in 0..5 {
        fastrand::seed(seed);
        let share = share_of_the_first(SlowToWake::new(false, true), [Habit::GivesUp, Habit::Waits]).await;
        assert!((40..=60).contains(&share), "seed {seed}: {share} %");
    }
}

/// At these times a process would rest that stood back for a long time but seldom.
#[tokio::test(start_paused = true)]
async fn a_process_that_comes_later_soon_has_its_turn() {
    for after in [950, 2_760, 5_000, 20_000] {
        let order = SlowToWake::new(true, true).contend_for(secs(3), &[Duration::ZERO, ms(after)]).await;
        // Each acquisition takes a millisecond.
        let alone = runs(&order)[0];
        assert!(alone < 300, "after {after} ms it waits for {alone} acquisitions of the first");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_alone_seldom_stands_back() {
    for (wakes, time, least) in [(true, secs(60), 94), (true, secs(1), 88), (false, secs(60), 90)] {
        let [told, not_told] = [true, false].map(|tells| SlowToWake::new(wakes, tells));
        let told = told.contend_for(time, &[Duration::ZERO]).await.len();
        let not_told = not_told.contend_for(time, &[Duration::ZERO]).await.len();
        assert!(told < not_told, "wakes={wakes}: it never stands back");
        assert!(told * 100 >= not_told * least, "wakes={wakes}: {told} of {not_told} in {time:?}");
    }
}
