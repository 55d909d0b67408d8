//! Work that one request does for all requests of the process, such as to connect.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, timeout},
};

use crate::mutex::Mutex;

/// Lets one caller at a time do something, and keeps the result `T` for the next caller.
///
/// Unlike with a mutex, no caller waits without end for one that the program does not drive any
/// more: a future that is kept but not polled, or one on a runtime that is paused.
/// After the limit, that caller has lost its turn, and another one begins anew with `T::default()`.
/// Then both may run at once.
///
/// The limit counts from the beginning of the turn. So it also ends if each caller waits for less
/// time than that, and asks again.
#[derive(Debug)]
pub struct Turns<T> {
    limit: Duration,
    current: Mutex<Turn<T>>,
}

#[derive(Debug)]
struct Turn<T> {
    last: Arc<tokio::sync::Mutex<T>>,
    since: Instant,
}

impl<T: Default> Turn<T> {
    fn new() -> Self {
        Self { last: Arc::default(), since: Instant::now() }
    }
}

impl<T: Default + Send> Turns<T> {
    /// Turns that are lost after `limit`, which is longer than a turn usually takes.
    pub fn new(limit: Duration) -> Self {
        Self { limit, current: Mutex::new(Turn::new()) }
    }

    /// Waits for the next turn, which ends when the returned guard is dropped.
    ///
    /// # Cancel safety
    /// A caller that gives up loses only its place among those that wait.
    pub async fn next(&self) -> OwnedMutexGuard<T> {
        loop {
            let (last, since) = {
                let mut turn = self.current.lock();
                if let Ok(free) = Arc::clone(&turn.last).try_lock_owned() {
                    turn.since = Instant::now();
                    return free;
                }
                (Arc::clone(&turn.last), turn.since)
            };
            let left = self.limit.saturating_sub(since.elapsed());
            let free = timeout(left, Arc::clone(&last).lock_owned()).await;
            let mut turn = self.current.lock();
            match free {
                Ok(free) => {
                    if Arc::ptr_eq(&turn.last, &last) {
                        turn.since = Instant::now();
                    }
                    return free;
                }
                // If another caller got the turn meanwhile, this one waits for that caller.
                Err(_) if turn.since == since => *turn = Turn::new(),
                Err(_) => {}
            }
        }
    }
}

/// A value that the first request of a process finds out for all of them.
///
/// Unlike with [`tokio::sync::OnceCell`], no caller waits without end for one that the program does
/// not drive any more, as [`Turns`] has it.
#[derive(Debug)]
pub struct FoundOnce<T> {
    found: OnceLock<T>,
    turns: Turns<()>,
}

impl<T: Send + Sync> FoundOnce<T> {
    /// Nothing is known yet. A caller that needs more than `limit` is not awaited by the others.
    pub fn new(limit: Duration) -> Self {
        Self { found: OnceLock::new(), turns: Turns::new(limit) }
    }

    /// Returns the value, if it is known.
    pub fn known(&self) -> Option<&T> {
        self.found.get()
    }

    /// Returns the value, or finds it out. The first answer stays. After an error the next caller
    /// asks.
    ///
    /// # Errors
    /// Of `ask`.
    ///
    /// # Cancel safety
    /// As cancel safe as `ask`.
    pub async fn get_or_ask<E, F>(&self, ask: impl FnOnce() -> F + Send) -> Result<&T, E>
    where
        F: Future<Output = Result<T, E>> + Send,
        E: Send,
    {
        if let Some(found) = self.known() {
            return Ok(found);
        }
        let _turn = self.turns.next().await;
        if let Some(found) = self.known() {
            return Ok(found);
        }
        let found = ask().await?;
        Ok(self.found.get_or_init(|| found))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        pin::pin,
        sync::atomic::{AtomicU8, Ordering::Relaxed},
    };

    use futures_util::{FutureExt as _, future::join_all};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_turn_ends_although_each_caller_waits_for_less() {
        let (turns, start) = (Turns::<u8>::new(LIMIT), Instant::now());
        let _stuck = turns.next().await;
        while timeout(LIMIT / 10, turns.next()).await.is_err() {}
        assert!(start.elapsed() >= LIMIT && start.elapsed() < LIMIT * 2, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_waits_and_is_not_driven_ends_no_turn_of_others() {
        let turns = Turns::<u8>::new(LIMIT);
        let first = turns.next().await;
        let mut stuck = pin!(turns.next());
        assert!(stuck.as_mut().now_or_never().is_none());
        // Now it has the turn, and does not know.
        drop(first);
        *timeout(LIMIT * 2, turns.next()).await.expect("the turn is replaced") = 7;
        assert_eq!(*turns.next().await, 7, "the result of the last turn is known");
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_after_a_long_one_lasts_as_long_as_the_limit() {
        let turns = Turns::<u8>::new(LIMIT);
        let at_once = AtomicU8::new(0);
        let work = || async {
            let _turn = turns.next().await;
            assert_eq!(at_once.fetch_add(1, Relaxed), 0, "one at a time");
            tokio::time::sleep(LIMIT * 3 / 4).await;
            at_once.fetch_sub(1, Relaxed);
        };
        join_all((0..10).map(|_| work())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn callers_share_one_answer_and_repeat_only_an_error() {
        let (once, asked) = (FoundOnce::<u8>::new(LIMIT), AtomicU8::new(0));
        let ask = || async {
            let times = asked.fetch_add(1, Relaxed) + 1;
            tokio::time::sleep(LIMIT / 10).await;
            if times == 1 { Err(()) } else { Ok(times) }
        };
        let answers = join_all((0..10).map(|_| once.get_or_ask(ask))).await;
        assert_eq!(answers.iter().filter(|answer| **answer == Ok(&2)).count(), 9, "{answers:?}");
        assert_eq!((asked.load(Relaxed), once.known()), (2, Some(&2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_is_not_driven_stops_no_other() {
        let once = FoundOnce::<u8>::new(LIMIT);
        let mut stuck = pin!(once.get_or_ask::<(), _>(pending));
        assert!(stuck.as_mut().now_or_never().is_none());
        assert_eq!(timeout(LIMIT * 2, once.get_or_ask::<(), _>(|| ready(Ok(3)))).await, Ok(Ok(&3)));
    }
}
