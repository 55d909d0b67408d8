//! Lets other processes have a lock between two series of hand-overs.
//!
//! After a series the lease is released in the store. The next waiter of this process could ask
//! again before a waiter of another process has learned of the release. If the waiters of other
//! processes poll, they ask much later still. So the process stands back: its next waiter does not
//! ask until others had the time to.
//!
//! A process that is alone would stand back for nothing. With each grant the store shows the token
//! of the previous grant. If that is a token of this process, no other process had the lock
//! meanwhile. A process that is alone stands back for a twentieth of its time.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    backend::{Capabilities, StoreTimings},
    types::FencingToken,
};

/// The least time in which the request of a process that a release has woken must arrive. Long
/// against the latency of a busy machine.
const WOKEN_WITHIN: Duration = Duration::from_millis(50);

/// How often in a row a process stands back for nothing until it counts as alone. More than once,
/// because the machine of the others may be busy for a moment.
const UNUSED_UNTIL_ALONE: u32 = 4;

/// A process that is alone stands back again after this many times as long, at most.
const MOST_RESTS: u32 = 20;

/// How long a process that is alone mostly stands back, if releases wake others. A waiter that is
/// woken asks within that time, unless its machine is busy.
const SHORTLY: Duration = Duration::from_millis(5);

/// Such a process stands back twice as long every second time, four times as long every fourth
/// time, and so on, up to this many doublings. Then it also meets a waiter on a busy machine.
const DOUBLINGS: u32 = 3;

/// How long such a process stands back on average.
const ON_AVERAGE: Duration = SHORTLY.saturating_mul(DOUBLINGS + 2).checked_div(2).expect("two is not zero");

/// How soon waiters of other processes ask after a release.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    timings: StoreTimings,
    wakes: bool,
}

impl Pace {
    pub(crate) fn new(timings: StoreTimings, capabilities: Capabilities) -> Self {
        Self { timings, wakes: capabilities.wake_up }
    }

    /// Returns the unit of the rest of a process that is alone and has stood back for `length`.
    fn rest(self, length: Duration) -> Duration {
        if self.wakes { ON_AVERAGE } else { length }
    }

    /// Returns how long to stand back after a turn of this length, if the last `unused` ones were
    /// for nothing, and whether another process was `met` not long ago.
    fn stand_back(self, turn: Duration, unused: u32, met: bool) -> Duration {
        let first = self.timings.poll_min;
        let first = match self.wakes {
            true => first.max(WOKEN_WITHIN),
            // The pauses of a waiter double. The present one is no longer than twice the time since
            // the waiter began, which is the length of the turn if the processes take turns.
            false => first.saturating_add(turn.saturating_mul(2)),
        };
        if self.wakes && !met {
            return SHORTLY * (1 << (unused + 1).trailing_zeros().min(DOUBLINGS));
        }
        // Longer if others do not come. Those that poll may have waited for more than a turn, and
        // those that a release wakes may ask one after the other.
        first
            .saturating_mul(1 << unused.saturating_sub(1).min(16))
            .min(self.timings.poll_max.max(self.timings.poll_min))
    }
}

/// What the waiters of this process know of other processes that use the lock.
#[derive(Debug, Default)]
pub(crate) struct Others {
    /// The token of the last grant to this process.
    own: Option<FencingToken>,
    /// An attempt since then was refused.
    refused: bool,
    /// The store has refused to watch.
    polls: bool,
    use_by_others: UseByOthers,
    /// When the store granted the lock to this process after another one, or first.
    turn_began: Option<Instant>,
    now: Option<StandBack>,
}

#[derive(Debug, Default)]
enum UseByOthers {
    /// The store has shown no token yet, or does not show it.
    #[default]
    Unknown,
    /// Another process had the lock not long ago. This one has stood back for nothing since, this
    /// many times in a row.
    Met { unused: u32 },
    /// Only this process uses the lock, as far as it knows. It has stood back for nothing this many
    /// times since it counts as alone.
    Alone { unused: u32, rests_until: Instant },
}

/// The time in which other processes may acquire the lock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StandBack {
    pub(crate) until: Instant,
    /// Whether another process is known to use the lock.
    pub(crate) met: bool,
    /// The token of the series.
    pub(crate) own: Option<FencingToken>,
    length: Duration,
    /// When a waiter with a short wait was granted the lock before the end.
    held_since: Option<Instant>,
}

impl Others {
    /// Returns until when the next request has to wait.
    pub(crate) fn stands_back(&self) -> Option<StandBack> {
        self.now
    }

    /// Records that the lock is free again for others.
    pub(crate) fn go_on(&mut self) {
        if let Some(now) = &mut self.now
            && let Some(since) = now.held_since.take()
        {
            now.until += since.elapsed();
        }
    }

    pub(crate) fn note_refusal(&mut self) {
        self.refused = true;
    }

    /// Records that a store which can wake waiters does not wake those of this process.
    pub(crate) fn note_polling(&mut self) {
        self.polls = true;
    }

    /// Records a grant of `token`, before which the store had granted `previous` to any process.
    pub(crate) fn note_grant(&mut self, token: Option<FencingToken>, previous: Option<FencingToken>, pace: Pace) {
        let own = std::mem::replace(&mut self.own, token);
        if self.is_early(own, previous) {
            // The others had less time than they need. That tells nothing of them.
            self.now = self.now.map(|now| StandBack { own: token, held_since: Some(Instant::now()), ..now });
            return;
        }
        let (refused, stood_back) = (std::mem::take(&mut self.refused), self.now.take());
        if previous.is_none() {
            return;
        }
        let is_first = own.is_none() && !refused;
        if own != previous || self.turn_began.is_none() {
            self.turn_began = Some(Instant::now());
        }
        let pace = self.judged(pace);
        self.use_by_others = match (&self.use_by_others, stood_back) {
            _ if !is_first && own != previous => UseByOthers::Met { unused: 0 },
            (UseByOthers::Met { .. } | UseByOthers::Alone { .. }, None) => return,
            // The others may have begun together with this process. A waiter that has just come
            // asks at once when it is woken.
            (UseByOthers::Unknown, None) if pace.wakes => UseByOthers::Alone { unused: 0, rests_until: Instant::now() },
            (UseByOthers::Unknown, None) => UseByOthers::alone(1, pace.rest(pace.stand_back(Duration::ZERO, 0, false))),
            (UseByOthers::Met { unused }, Some(_)) if unused + 1 < UNUSED_UNTIL_ALONE => {
                UseByOthers::Met { unused: unused + 1 }
            }
            (UseByOthers::Alone { unused, .. }, Some(before)) => {
                UseByOthers::alone(unused + 1, pace.rest(before.length))
            }
            (_, Some(before)) => UseByOthers::alone(1, pace.rest(before.length)),
        };
    }

    /// Returns `true` if this process still has to stand back after a grant. A waiter whose wait is
    /// short asks before the end.
    fn is_early(&self, own: Option<FencingToken>, previous: Option<FencingToken>) -> bool {
        let lasts = self.now.is_some_and(|now| Instant::now() < now.until);
        let others_had = if previous.is_some() { own != previous } else { self.refused };
        lasts && !others_had
    }

    /// Returns the pace of others, which poll if this process has to.
    fn judged(&self, pace: Pace) -> Pace {
        Pace { wakes: pace.wakes && !self.polls, ..pace }
    }

    /// Records that a series of hand-overs has ended, while others of this process wait.
    pub(crate) fn note_end_of_series(&mut self, pace: Pace) {
        let now = Instant::now();
        let pace = self.judged(pace);
        let turn = self.turn_began.map_or(Duration::ZERO, |began| now.duration_since(began));
        if !pace.wakes && turn < pace.timings.poll_min {
            // Others poll as seldom. With shorter turns the lock would be free most of the time.
            return;
        }
        let (met, unused) = match self.use_by_others {
            UseByOthers::Unknown => return,
            UseByOthers::Met { unused } => (true, unused),
            UseByOthers::Alone { rests_until, .. } if now < rests_until => return,
            UseByOthers::Alone { unused, .. } => (false, unused),
        };
        let length = pace.stand_back(turn, unused, met);
        self.now = Some(StandBack { until: now + length, met, own: self.own, length, held_since: None });
    }
}

impl UseByOthers {
    /// Returns what a process knows that is alone and has stood back `unused` times. It rests for a
    /// multiple of `unit`.
    fn alone(unused: u32, unit: Duration) -> Self {
        let rests = (1 << unused.min(16)).min(MOST_RESTS);
        Self::Alone { unused, rests_until: Instant::now() + unit * rests }
    }
}
