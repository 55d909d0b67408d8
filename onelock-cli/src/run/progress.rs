//! Shows the progress of a wait: on a terminal one line that is updated in place and finally
//! erased, in a log lines at growing intervals.

use std::{
    io::{IsTerminal, stderr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lock_core::{Error, Holder, LockName};

use crate::{
    exit::Failure,
    live::LiveLine,
    one_line::one_line,
    output::report,
    terminal::{self, columns, cut, short},
};

/// The time from the first line of a log to the second. Each further one takes twice as long.
const FIRST_INTERVAL: Duration = Duration::from_secs(5);
const LONGEST_INTERVAL: Duration = Duration::from_secs(600);
/// The owner is cut first, but not below this.
const LEAST_OWNER: usize = 12;

/// How much is shown of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Talk {
    /// Nothing, for `-q`.
    Quiet,
    /// On a terminal only.
    Usual,
    /// Also in a log, for `-v`.
    Verbose,
}

/// Where the progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Nowhere,
    /// One line of the terminal.
    Live,
    Log,
}

#[derive(Debug)]
pub(crate) struct Progress {
    form: Form,
    /// Whether failures of the store are told. They are on a terminal without `-v` too.
    tells_failures: bool,
    name: LockName,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The holder by the last answer, and the time of the answer.
    holder: Option<(Holder, Instant)>,
    /// Whether an attempt has ended.
    answered: bool,
    /// The longest delay of the first attempt, in seconds.
    delay: u64,
    /// The failure that was reported last; `None` also after an answer of the store.
    failure: Option<String>,
    live: LiveLine,
    lines: Intervals,
}

/// When the next line of a log is due.
#[derive(Debug)]
struct Intervals {
    next: Duration,
    interval: Duration,
}

impl Intervals {
    /// Returns whether a line is due after this wait, and if so plans the next one.
    fn is_due(&mut self, waited: Duration) -> bool {
        if waited < self.next {
            return false;
        }
        self.next = waited + self.interval;
        self.interval = (2 * self.interval).min(LONGEST_INTERVAL);
        true
    }
}

impl Progress {
    pub(crate) fn new(talk: Talk, name: LockName) -> Self {
        let form = match talk {
            Talk::Quiet => Form::Nowhere,
            _ if terminal::can_update_in_place() => Form::Live,
            Talk::Verbose => Form::Log,
            Talk::Usual => Form::Nowhere,
        };
        Self {
            form,
            tells_failures: talk == Talk::Verbose || (talk == Talk::Usual && stderr().is_terminal()),
            name,
            began: Instant::now(),
            state: Mutex::new(State {
                holder: None,
                answered: false,
                delay: 0,
                failure: None,
                live: LiveLine::new(),
                lines: Intervals { next: Duration::ZERO, interval: FIRST_INTERVAL },
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports that an attempt failed and is repeated, once for each failure of a series.
    pub(crate) fn note_retry(&self, error: &Error, left: Duration) {
        let failure = Failure::from(error.clone()).to_string();
        let known = {
            let mut state = self.state();
            state.answered = true;
            state.failure.replace(failure.clone())
        };
        if self.tells_failures && known.as_ref() != Some(&failure) {
            self.clear();
            report(&format!("{failure}; retrying for up to {} s", left.as_secs_f64().ceil()));
        }
    }

    /// Reports once that the first request has had no answer yet.
    fn note_silence(&self) {
        if self.tells_failures && !self.state().answered {
            report(&format!("the store has not answered yet about \"{}\"", self.name));
        }
    }

    /// Notes that the first attempt is delayed by up to `window`. The store is not silent before.
    pub(crate) fn note_delay(&self, window: Duration) {
        self.state().delay = window.as_secs() + u64::from(window.subsec_nanos() > 0);
    }

    /// Notes that the store has answered an attempt.
    pub(crate) fn note_answer(&self) {
        let mut state = self.state();
        state.answered = true;
        state.failure = None;
    }

    pub(crate) fn note_holder(&self, holder: &Holder) {
        self.state().holder = Some((holder.clone(), Instant::now()));
        self.show();
    }

    /// Runs `work`, and shows the progress every second.
    pub(crate) async fn show_while<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let mut clock = tokio::time::interval(Duration::from_secs(1));
        let mut seconds = 0;
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = clock.tick() => {
                    // The first tick comes at once.
                    if seconds == 1 + self.state().delay {
                        self.note_silence();
                    }
                    self.show();
                    seconds += 1;
                }
            }
        }
    }

    /// Shows who holds the lock, if that is known, and a line is due.
    fn show(&self) {
        let mut state = self.state();
        let Some((holder, answered)) = &state.holder else { return };
        let (holder, waited) = (grown(holder, answered.elapsed()), self.began.elapsed());
        match self.form {
            Form::Nowhere => {}
            Form::Live => state.live.set(&live_line(&self.name, waited, &holder, terminal::error_width())),
            Form::Log if state.lines.is_due(waited) => {
                let waited = if waited < FIRST_INTERVAL { String::new() } else { format!(" for {}", short(waited)) };
                report(&format!("waiting for \"{}\"{waited}, held by {holder}", self.name));
            }
            Form::Log => {}
        }
    }

    pub(crate) fn clear(&self) {
        self.state().live.clear();
    }
}

/// Returns the holder `later` than the store answered. Its lease may have been renewed since.
fn grown(holder: &Holder, later: Duration) -> Holder {
    let holder = holder.clone();
    let held_for = holder.held_for.map(|age| age + later);
    let expires_in = holder.expires_in.map(|left| left.saturating_sub(later));
    holder.with_held_for(held_for).with_expires_in(expires_in)
}

/// Returns the line of a terminal of this width. Its last column stays free, where some terminals
/// begin a new line.
fn live_line(name: &LockName, waited: Duration, holder: &Holder, width: usize) -> String {
    let limit = width.saturating_sub(1);
    let start = one_line(&format!("onelock: waiting for \"{name}\" for {}, held by ", short(waited)));
    let who = holder.owner.as_deref().or(holder.foreign.as_deref()).unwrap_or("an unknown holder");
    let mut end = holder.held_for.map(|age| format!(" for {}", short(age))).unwrap_or_default();
    if let Some(left) = holder.expires_in {
        end += &format!(", its lease ends in {}", short(left));
    }
    if holder.count() > 1 {
        end += &format!(", and {} more", holder.count() - 1);
    }
    let room = limit.saturating_sub(columns(&start) + columns(&end)).max(LEAST_OWNER);
    cut(&format!("{start}{}{end}", cut(&one_line(who), room)), limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_fits_the_terminal() {
        let name = LockName::new("nightly-etl").expect("a valid name");
        let holder = Holder::default()
            .with_owner("etl-7.eu-west-1.compute.internal:4711-5be6a2c1".to_owned())
            .with_held_for(Duration::from_secs(200))
            .with_expires_in(Duration::from_secs(29));
        let line = |width| live_line(&name, Duration::from_secs(12), &holder, width);
        assert_eq!(
            line(120),
            "onelock: waiting for \"nightly-etl\" for 12s, held by etl-7.eu-west-1.compute.internal… for 3m 20s, \
             its lease ends in 29s"
        );
        assert_eq!(line(80), "onelock: waiting for \"nightly-etl\" for 12s, held by etl-7.eu-we… for 3m 20s, i…");
        for width in [0, 1, 20, 40, 80, 120, 200] {
            assert!(columns(&line(width)) <= width.saturating_sub(1), "{width}: {}", line(width));
        }
        let hostile = Holder::default().with_owner("a\u{1b}[2J\r\n".to_owned());
        assert!(!live_line(&name, Duration::ZERO, &hostile, 80).contains(char::is_control));
    }

    #[test]
    fn lines_of_a_log_come_at_growing_intervals() {
        let mut lines = Intervals { next: Duration::ZERO, interval: FIRST_INTERVAL };
        let due: Vec<_> = (0..4_000).filter(|&second| lines.is_due(Duration::from_secs(second))).collect();
        assert_eq!(due, [0, 5, 15, 35, 75, 155, 315, 635, 1_235, 1_835, 2_435, 3_035, 3_635]);
    }

    #[test]
    fn ages_grow_between_answers() {
        let seconds = Duration::from_secs;
        let holder = Holder::default().with_held_for(seconds(5)).with_expires_in(seconds(3));
        let later = grown(&holder, seconds(10));
        assert_eq!((later.held_for, later.expires_in), (Some(seconds(15)), Some(Duration::ZERO)));
    }
}
