//! An alarm that watches two clocks at once.

use std::{os::fd::AsFd, time::Duration};

use lock_core::clock::{Clock, ClockReading, SystemClock};
use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};

/// Whether either clock has reached `moment`.
pub(crate) fn has_passed(moment: ClockReading) -> bool {
    until(moment).is_zero()
}

/// Returns the time until either clock reaches `moment`.
pub(crate) fn until(moment: ClockReading) -> Duration {
    let now = SystemClock.now();
    moment.boot.saturating_sub(now.boot).min(moment.wall.saturating_sub(now.wall))
}

/// Returns `moment`, earlier by `by`.
pub(crate) fn before(moment: ClockReading, by: Duration) -> ClockReading {
    ClockReading { boot: moment.boot.saturating_sub(by), wall: moment.wall.saturating_sub(by) }
}

/// Returns the moment that is `wait` from now.
pub(crate) fn from_now(wait: Duration) -> ClockReading {
    let now = SystemClock.now();
    ClockReading { boot: now.boot.saturating_add(wait), wall: now.wall.saturating_add(wait) }
}

/// Returns the earlier of two moments, on each clock.
pub(crate) fn earlier(a: ClockReading, b: ClockReading) -> ClockReading {
    ClockReading { boot: a.boot.min(b.boot), wall: a.wall.min(b.wall) }
}

/// Two timers, one for each clock.
///
/// A timeout of `poll(2)` would not advance while the machine is suspended. It would also ignore a
/// wall clock that was set forward, as happens when a virtual machine is thawed.
#[derive(Debug)]
pub(crate) struct Alarm {
    boot: TimerFd,
    wall: TimerFd,
}

impl Alarm {
    pub(crate) fn new() -> nix::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Self {
            boot: TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?,
            wall: TimerFd::new(ClockId::CLOCK_REALTIME, flags)?,
        })
    }

    /// Makes the descriptors readable at `moment`, or never.
    pub(crate) fn set(&self, moment: Option<ClockReading>) -> nix::Result<()> {
        let Some(moment) = moment else {
            self.boot.unset()?;
            return self.wall.unset();
        };
        // Zero would disarm the timer.
        let at = |time: Duration| Expiration::OneShot(TimeSpec::from_duration(time.max(Duration::from_nanos(1))));
        let absolute = TimerSetTimeFlags::TFD_TIMER_ABSTIME;
        self.boot.set(at(moment.boot), absolute)?;
        // The timer also becomes readable when the wall clock is set.
        self.wall.set(at(moment.wall), absolute | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET)
    }

    pub(crate) fn descriptors(&self) -> [std::os::fd::BorrowedFd<'_>; 2] {
        [self.boot.as_fd(), self.wall.as_fd()]
    }
}
