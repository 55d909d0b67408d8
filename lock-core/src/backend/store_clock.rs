//! The clock of a store that shows it only in the `Date` of its replies.

use std::{sync::Arc, time::Duration};

use crate::{
    mutex::Mutex,
    types::{Clock, ClockReading},
};

const SECOND: i64 = 1_000_000;
/// A date is cut to a second, so a good clock may seem late by as long as the request took. Below
/// this difference, the margin between the end of a guard and the end of its lease covers it, and
/// no second request is sent.
const GRACE: i64 = 250_000;

/// Estimates the time of a store that shows its clock only in the `Date` header of a reply, cut to
/// a second, such as DynamoDB and object stores.
///
/// A reply that was requested at `a` and arrived at `b` with the date `d` proves that the store's
/// clock is ahead of our elapsed clock by something in `[d - b, d + 1 s - a]`. Each further reply
/// narrows that span. Within the span the wall clock is used, because it is precise to a
/// millisecond on a machine whose time is kept. It is never used so far that a wrong clock would
/// make two holders: an expiry is written at most half of the skew bound early
/// ([`now`](Self::now)), and judged at most half of it ahead
/// ([`now_at_least`](Self::now_at_least)).
#[derive(Debug)]
pub struct StoreClock {
    clock: Arc<dyn Clock>,
    /// How far a single clock may be off: half of the bound on the difference of two.
    tolerance: i64,
    /// How far a reading may be wrong on the side that could let two clients hold one lock: the
    /// tolerance, but not less than the resolution of a date. Where replies prove the wall clock
    /// wrong by more than the tolerance, the tolerance alone.
    trust: i64,
    span: Mutex<Option<Span>>,
}

/// Store time minus elapsed time, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    lo: i64,
    hi: i64,
    /// Elapsed time of the last comparison.
    at: i64,
}

/// The estimated time of a store at one reading of our clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreTime {
    /// The reading of our clocks.
    pub moment: ClockReading,
    /// The store's time then, in microseconds since the Unix epoch.
    pub micros: i64,
}

impl StoreTime {
    /// A time of the store that a test chooses.
    pub fn new(moment: ClockReading, micros: i64) -> Self {
        Self { moment, micros }
    }

    /// The store's time in whole milliseconds since the Unix epoch.
    pub fn millis(self) -> i64 {
        self.micros.div_euclid(1_000)
    }
}

impl StoreClock {
    /// An estimate without any reply yet. The clocks of two clients may differ by `skew_bound`.
    pub fn new(clock: Arc<dyn Clock>, skew_bound: Duration) -> Self {
        let tolerance = micros(skew_bound) / 2;
        Self { clock, tolerance, trust: tolerance.max(SECOND), span: Mutex::new(None) }
    }

    /// The [least margin](super::StoreTimings::least_margin) of leases that are judged by this
    /// estimate: an expiry may stand that was written this much too early.
    pub const LEAST_MARGIN: Duration = Duration::from_micros(GRACE.unsigned_abs());

    /// Reads our own clocks.
    pub fn moment(&self) -> ClockReading {
        self.clock.now()
    }

    /// Estimates the store's time now, for an expiry that is written: not dangerously early.
    pub fn now(&self) -> StoreTime {
        self.read(|wall, lo, hi| {
            let trust = if wall < lo - self.tolerance { self.tolerance } else { self.trust };
            wall.clamp(lo.max(hi - trust), hi)
        })
    }

    /// Estimates the store's time now, to judge an expiry that another client wrote: not
    /// dangerously late.
    pub fn now_at_least(&self) -> StoreTime {
        self.read(|wall, lo, hi| {
            let trust = if wall > hi + self.tolerance { self.tolerance } else { self.trust };
            wall.clamp(lo, hi.min(lo + trust))
        })
    }

    fn read(&self, within: impl Fn(i64, i64, i64) -> i64) -> StoreTime {
        let moment = self.clock.now();
        let wall = micros(moment.wall);
        let micros = self.bounds(moment).map_or(wall, |(lo, hi)| within(wall, lo, hi));
        StoreTime { moment, micros }
    }

    /// Narrows the estimate by the `date` (in seconds since the Unix epoch) of a reply received at
    /// `received` to a request sent at `sent`.
    pub fn observe(&self, sent: ClockReading, received: ClockReading, date: i64) {
        let at = micros(received.boot);
        let seen = Span { lo: date * SECOND - at, hi: (date + 1) * SECOND - micros(sent.boot), at };
        if seen.lo > seen.hi {
            // Time since boot does not go back; where it has, this reply proves nothing.
            return;
        }
        let mut span = self.span.lock();
        // What contradicts all before is right: this machine was paused without its clock noticing.
        *span = Some(span.and_then(|known| known.widened(at).intersection(seen)).unwrap_or(seen));
    }

    /// Returns the least error of the wall clock, in microseconds, positive when it is ahead;
    /// `None` before the first reply.
    pub fn skew(&self, at: ClockReading) -> Option<i64> {
        let (lo, hi) = self.bounds(at)?;
        let wall = micros(at.wall);
        Some(wall - wall.clamp(lo, hi))
    }

    /// Returns whether the wall clock may judge the locks of other clients: its error is known, and
    /// within half of the skew bound.
    pub fn is_trusted(&self, at: ClockReading) -> bool {
        self.skew(at).is_some_and(|skew| skew.abs() <= self.tolerance)
    }

    /// Returns whether an expiry that was computed from `reading`, before a reply, is right in the
    /// light of that reply. An early expiry would let another client in; a late one would keep it
    /// waiting.
    pub fn confirms(&self, reading: StoreTime) -> bool {
        self.bounds(reading.moment).is_none_or(|(lo, hi)| {
            let earliest = (hi - self.trust - GRACE).max(lo - self.tolerance);
            (earliest..=hi + self.tolerance).contains(&reading.micros)
        })
    }

    /// The bounds of the store's clock at a reading of ours.
    fn bounds(&self, moment: ClockReading) -> Option<(i64, i64)> {
        let boot = micros(moment.boot);
        let span = (*self.span.lock())?.widened(boot);
        Some((span.lo + boot, span.hi + boot))
    }
}

impl Span {
    fn widened(self, now: i64) -> Self {
        // 500 ppm, the most that adjtimex(2) lets a clock be slewed by.
        let drift = (now - self.at).max(0) / 2_000;
        Self { lo: self.lo - drift, hi: self.hi + drift, at: now.max(self.at) }
    }

    fn intersection(self, other: Self) -> Option<Self> {
        let both = Self { lo: self.lo.max(other.lo), hi: self.hi.min(other.hi), at: self.at.max(other.at) };
        (both.lo <= both.hi).then_some(both)
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed(std::sync::Mutex<ClockReading>);

    impl Clock for Fixed {
        fn now(&self) -> ClockReading {
            *self.0.lock().unwrap()
        }
    }

    const EPOCH: u64 = 1_700_000_000;

    /// Boot and wall time in milliseconds, the wall clock being `off` seconds ahead.
    fn at(boot: u64, off: i64) -> ClockReading {
        let wall = Duration::from_secs(EPOCH.checked_add_signed(off).unwrap()) + Duration::from_millis(boot);
        ClockReading { boot: Duration::from_millis(boot), wall }
    }

    /// A clock on a machine whose wall clock is `off` seconds ahead, two seconds after boot.
    fn clock(off: i64) -> (Arc<Fixed>, StoreClock) {
        let fixed = Arc::new(Fixed(std::sync::Mutex::new(at(2_000, off))));
        (Arc::clone(&fixed), StoreClock::new(fixed, Duration::from_secs(2)))
    }

    fn date_at(boot: u64) -> i64 {
        i64::try_from(EPOCH + boot / 1_000).unwrap()
    }

    #[test]
    fn the_wall_clock_judges_nothing_before_the_first_reply() {
        let (_, clock) = clock(3_600);
        assert_eq!(clock.now().micros, micros(at(2_000, 3_600).wall));
        assert!(!clock.is_trusted(clock.moment()));
        assert_eq!(clock.skew(clock.moment()), None);
        assert!(clock.confirms(clock.now()));
    }

    #[test]
    fn a_good_wall_clock_stays_precise_to_the_microsecond() {
        let (_, clock) = clock(0);
        clock.observe(at(1_500, 0), at(1_510, 0), date_at(1_505));
        assert_eq!(clock.now().micros, micros(at(2_000, 0).wall));
        assert_eq!(clock.now_at_least().micros, micros(at(2_000, 0).wall));
        assert!(clock.is_trusted(clock.moment()));
        assert_eq!(clock.skew(clock.moment()), Some(0));
    }

    #[test]
    fn one_reply_reveals_a_wall_clock_an_hour_off() {
        for off in [-3_600, 3_600] {
            let (_, clock) = clock(off);
            let before = clock.now();
            clock.observe(at(2_000, off), at(2_010, off), date_at(2_005));
            assert!(!clock.confirms(before), "the reading that the request carried was wrong");
            assert!(!clock.is_trusted(clock.moment()));
            let true_now = micros(at(2_000, 0).wall);
            assert!((clock.now().micros - true_now).abs() <= 1_100_000, "and the next one is right within a second");
            assert!((clock.skew(clock.moment()).unwrap() - off * SECOND).abs() <= 1_100_000);
        }
    }

    #[test]
    fn two_lying_clocks_together_stay_within_the_bound() {
        for bound in [200, 1_000, 2_000, 3_000] {
            lying_clocks_stay_within(Duration::from_millis(bound));
        }
    }

    /// For any fraction of a date, duration of a request and error of a wall clock: an expiry is
    /// written early, and judged ahead, by no more than the bound together. Below two seconds this
    /// needs a clock that is right within half of the bound, or wrong enough for a date to show it.
    fn lying_clocks_stay_within(bound: Duration) {
        let half = micros(bound) / 2;
        for fraction in (0..1_000).step_by(37) {
            for took in [1, 40, 300, 1_900] {
                for off in [-10_000, -1_900, -1_100, -600, -90, 0, 90, 600, 1_100, 1_900, 10_000_i64] {
                    let boot = 5_000 + fraction;
                    // The date is of the beginning, or of the end, of the time under way.
                    for stamped in [boot, boot + took] {
                        let fixed = Arc::new(Fixed(std::sync::Mutex::new(off_by(boot, off))));
                        let clock = StoreClock::new(Arc::clone(&fixed) as Arc<dyn Clock>, bound);
                        let before = clock.now();
                        clock.observe(off_by(boot, off), off_by(boot + took, off), date_at(stamped));
                        *fixed.0.lock().unwrap() = off_by(boot + took, off);
                        let known =
                            |at| half >= SECOND || off.abs() * 1_000 <= half || clock.skew(at).unwrap().abs() > half;
                        let is = i64::try_from((EPOCH * 1_000 + boot + took) * 1_000).unwrap();
                        let what = format!("bound {bound:?}, off by {off} ms, fraction {fraction}, took {took}");
                        if known(clock.moment()) {
                            assert!(clock.now().micros >= is - half, "{what}: written early");
                            assert!(clock.now_at_least().micros <= is + half, "{what}: judged ahead");
                        }
                        let was = is - i64::try_from(took).unwrap() * 1_000;
                        let early = before.micros < was - half - GRACE;
                        assert!(!clock.confirms(before) || !known(before.moment) || !early, "{what}: confirmed early");
                    }
                }
            }
        }
    }

    /// Boot and wall time in milliseconds, the wall clock being `off` milliseconds ahead.
    fn off_by(boot: u64, off: i64) -> ClockReading {
        let wall = Duration::from_millis((EPOCH * 1_000 + boot).checked_add_signed(off).unwrap());
        ClockReading { boot: Duration::from_millis(boot), wall }
    }

    #[test]
    fn a_good_clock_is_used_under_a_bound_below_one_second() {
        let fixed = Arc::new(Fixed(std::sync::Mutex::new(at(5_900, 0))));
        let clock = StoreClock::new(fixed, Duration::from_millis(200));
        let before = clock.now();
        clock.observe(at(5_900, 0), at(5_901, 0), date_at(5_900));
        assert_eq!((clock.now().micros, clock.now_at_least().micros), (before.micros, before.micros));
        let fixed = Arc::new(Fixed(std::sync::Mutex::new(at(5_100, 0))));
        let clock = StoreClock::new(fixed, Duration::from_millis(200));
        let before = clock.now();
        clock.observe(at(5_100, 0), at(5_101, 0), date_at(5_100));
        assert!(clock.confirms(before));
        assert_eq!((clock.now().micros, clock.now_at_least().micros), (before.micros, before.micros));
    }

    #[test]
    fn a_good_clock_is_confirmed_for_every_fraction_of_a_date() {
        for fraction in 0..1_000 {
            for took in [1, 20, 200] {
                let (fixed, clock) = clock(0);
                *fixed.0.lock().unwrap() = at(5_000 + fraction, 0);
                let before = clock.now();
                clock.observe(
                    at(5_000 + fraction, 0),
                    at(5_000 + fraction + took, 0),
                    date_at(5_000 + fraction + took),
                );
                assert!(clock.confirms(before), "fraction {fraction} ms, took {took} ms");
            }
        }
    }

    #[test]
    fn replies_narrow_the_span_down_to_the_round_trip() {
        let (fixed, clock) = clock(3_600);
        for step in 0..200 {
            let boot = 2_000 + step * 137;
            clock.observe(at(boot, 3_600), at(boot + 4, 3_600), date_at(boot + 2));
            *fixed.0.lock().unwrap() = at(boot + 4, 3_600);
        }
        let error = clock.now().micros - micros(fixed.0.lock().unwrap().wall) + 3_600 * SECOND;
        assert!(error.abs() < 50_000, "off by {error} µs");
    }

    #[test]
    fn old_replies_bound_the_clock_less_tightly() {
        let (_, clock) = clock(0);
        clock.observe(at(1_500, 0), at(1_510, 0), date_at(1_505));
        // In a day a clock may be slewed by 43 s.
        let day = 24 * 3_600_000;
        assert_eq!(clock.skew(at(day, 40)), Some(0));
        assert!(clock.skew(at(day, 60)).unwrap() > 15 * SECOND);
        assert!(clock.skew(at(day, -60)).unwrap() < -15 * SECOND);
    }

    #[test]
    fn an_elapsed_clock_that_went_back_proves_nothing() {
        let (_, clock) = clock(0);
        clock.observe(at(9_000, 0), at(2_000, 0), date_at(2_000));
        assert_eq!(clock.skew(clock.moment()), None);
        assert_eq!(clock.now().micros, micros(at(2_000, 0).wall));
    }

    #[test]
    fn the_next_reply_reveals_a_pause_of_the_elapsed_clock() {
        let (_, clock) = clock(0);
        clock.observe(at(1_000, 0), at(1_010, 0), date_at(1_005));
        // A minute passed on every other clock.
        let (sent, received) = (at(2_000, 60), at(2_010, 60));
        clock.observe(sent, received, date_at(2_000) + 60);
        assert!(clock.is_trusted(received));
        assert!(!clock.is_trusted(at(2_010, 0)), "a wall clock that missed it too is off by a minute");
    }
}
