//! Who holds a lock, as far as the store can say.

use std::{
    fmt,
    num::NonZeroU32,
    time::{Duration, SystemTime},
};

use crate::types::{FencingToken, Mode};

/// How far an estimate of a store's clock may be wrong.
const ESTIMATE: Duration = Duration::from_secs(2);

/// Who holds a lock, since when, until when: all that the store's record says.
///
/// A shared lock may have several holders. This is the first of them to expire, and
/// [`others`](Self::others) are the rest.
///
/// Every field is optional, because the holder may be a foreign client that records less, or
/// nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The holder's name for itself; see [`owner`](crate::LockRequest::owner).
    pub owner: Option<String>,
    /// The holder's fencing token.
    pub token: Option<FencingToken>,
    /// When it acquired the lock, by the store's clock where the store has one. Do not compare it
    /// with the clock of this machine, which may differ; see [`held_for`](Self::held_for).
    pub since: Option<SystemTime>,
    /// How long it had held the lock when the store answered, by the store's clock. `None` when the
    /// answer does not show that clock.
    pub held_for: Option<Duration>,
    /// How long the store will keep the lock unless it is renewed, by the store's clock when it
    /// answered. `None` when the lock does not expire by itself or the store does not say.
    pub expires_in: Option<Duration>,
    /// What the holder left for others to read.
    pub data: Option<Vec<u8>>,
    /// Identifies this state of the record, for [`break_lock`](crate::backend::Admin::break_lock):
    /// changes at least with every acquisition. `None` when the lock cannot be broken.
    pub version: Option<String>,
    /// What kind of foreign lock this is, when it is not one of ours: "a Redis hash (Redisson)", "a
    /// flock(2) holder without a record".
    pub foreign: Option<String>,
    /// The process of this machine that holds the lock, by its number, if the operating system
    /// names it and no record does. It has a meaning only in the namespace of this process.
    pub process: Option<NonZeroU32>,
    /// How the lock is held.
    pub mode: Mode,
    /// The other holders of a lock that has several, at most [`MOST_OTHERS`](Self::MOST_OTHERS).
    /// They have no others themselves.
    pub others: Vec<Self>,
    /// How many holders more there are than are named.
    pub more: u64,
}

impl Holder {
    /// Sets `held_for` from `since` and `now`, the store's time of the answer.
    ///
    /// A start that is slightly ahead of `now` counts as now, because `now` may be an estimate. A
    /// start further ahead says nothing.
    #[must_use]
    pub fn with_store_time(self, now: impl Into<Option<SystemTime>>) -> Self {
        let age = |(since, now): (SystemTime, SystemTime)| match now.duration_since(since) {
            Ok(age) => Some(age),
            Err(ahead) => (ahead.duration() <= ESTIMATE).then_some(Duration::ZERO),
        };
        let now: Option<SystemTime> = now.into();
        let held_for = self.since.zip(now).and_then(age);
        Self { held_for, ..self }
    }
}

setters!(Holder {
    with_owner(owner: impl Into<Option<String>>),
    with_token(token: impl Into<Option<FencingToken>>),
    with_since(since: impl Into<Option<SystemTime>>),
    with_held_for(held_for: impl Into<Option<Duration>>),
    with_expires_in(expires_in: impl Into<Option<Duration>>),
    with_data(data: impl Into<Option<Vec<u8>>>),
    with_version(version: impl Into<Option<String>>),
    with_foreign(foreign: impl Into<Option<String>>),
    with_process(process: impl Into<Option<NonZeroU32>>),
    with_mode(mode: Mode),
    with_others(others: Vec<Holder>),
    with_more(more: u64),
});

impl Holder {
    /// How many other holders a store names at most, so that an answer stays short.
    pub const MOST_OTHERS: usize = 15;

    /// Returns one holder that stands for all of `holders`: the first to expire, with the others.
    /// `None` if there is none.
    pub fn of_several(mut holders: Vec<Self>) -> Option<Self> {
        // A lock without a known end expires last.
        holders.sort_by_key(|holder| holder.expires_in.unwrap_or(Duration::MAX));
        let mut others = holders.into_iter();
        let mut first = others.next()?;
        first.others = others.collect();
        first.more += first.others.len().saturating_sub(Self::MOST_OTHERS) as u64;
        first.others.truncate(Self::MOST_OTHERS);
        Some(first)
    }

    /// Returns how many hold the lock.
    pub fn count(&self) -> u64 {
        1 + self.others.len() as u64 + self.more
    }
}

impl fmt::Display for Holder {
    /// One line: `etl-7:4711-x3 for 42 s, token 1732, expires in 12 s`. Without a known age, the
    /// recorded start: `etl-7:4711-x3 since 2026-11-29T08:49:36Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.owner, &self.foreign) {
            (Some(owner), _) => write!(f, "{}", owner.escape_debug())?,
            (None, Some(kind)) => write!(f, "{kind}")?,
            (None, None) => write!(f, "an unknown holder")?,
        }
        match (self.held_for, self.since) {
            (Some(held_for), _) => write!(f, " for {} s", held_for.as_secs())?,
            (None, Some(since)) => write!(f, " since {}", Utc(since))?,
            (None, None) => {}
        }
        if let Some(token) = self.token {
            write!(f, ", token {token}")?;
        }
        if let Some(left) = self.expires_in {
            write!(f, ", expires in {} s", left.as_secs_f64().ceil())?;
        }
        if self.mode != Mode::Exclusive {
            write!(f, ", {}", self.mode)?;
        }
        match self.count() - 1 {
            0 => {}
            1 => f.write_str(", and 1 other holder")?,
            others => write!(f, ", and {others} other holders")?,
        }
        Ok(())
    }
}

/// Shows a time as the date and the time of day in UTC, as in RFC 3339.
struct Utc(SystemTime);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAY: u64 = 86_400;
        let seconds = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let (year, month, day) = civil(seconds / DAY);
        let (hour, minute, second) = (seconds % DAY / 3_600, seconds % 3_600 / 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// Returns year, month and day of the Gregorian calendar, `days` after 1970-01-01.
///
/// Counts in eras of 400 years and in years that begin on the first of March, so that a leap day is
/// the last day of its year; see `civil_from_days` in
/// <https://howardhinnant.github.io/date_algorithms.html>.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn an_age_comes_from_the_stores_clock_or_is_not_shown() {
        let holder = Holder::default().with_owner("etl:1".to_owned()).with_since(at(1_700_000_000));
        // The wall clock of the machine that runs this test is years ahead.
        assert_eq!(holder.to_string(), "etl:1 since 2023-11-14T22:13:20Z");
        let after = |seconds: u64| holder.clone().with_store_time(at(1_700_000_000 + seconds));
        assert_eq!(after(42).to_string(), "etl:1 for 42 s");
        let ahead = holder.clone().with_store_time(at(1_699_999_999));
        assert_eq!(ahead.held_for, Some(Duration::ZERO), "the estimate of the store's clock is late");
        let ahead = holder.clone().with_store_time(at(1_699_999_000));
        assert_eq!((ahead.held_for, ahead.to_string()), (None, holder.to_string()));
        assert_eq!(holder.clone().with_store_time(None).held_for, None);
    }

    #[test]
    fn times_are_shown_in_utc() {
        for (seconds, shown) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Utc(at(seconds)).to_string(), shown);
        }
    }

    #[test]
    fn a_holder_is_shown_in_one_line_with_what_is_known() {
        assert_eq!(Holder::default().to_string(), "an unknown holder");
        let holder = Holder {
            owner: Some("etl:1\n".into()),
            token: FencingToken::new(7),
            expires_in: Some(Duration::from_millis(11_200)),
            ..Holder::default()
        };
        assert_eq!(holder.to_string(), "etl:1\\n, token 7, expires in 12 s");
        let later = Holder { expires_in: Some(Duration::from_secs(60)), mode: Mode::Shared, ..Holder::default() };
        let sooner = Holder { owner: Some("b".into()), expires_in: Some(Duration::from_secs(1)), ..later.clone() };
        let all = Holder::of_several(vec![later; 20]);
        assert_eq!(all.map(|all| (all.count(), all.others.len())), Some((20, 15)));
        let both = Holder::of_several(vec![Holder { mode: Mode::Shared, ..Holder::default() }, sooner]).unwrap();
        assert_eq!(both.to_string(), "b, expires in 1 s, shared, and 1 other holder");
    }
}
