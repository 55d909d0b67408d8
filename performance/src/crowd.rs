//! Measures processes and tasks that contend for one lock, as far as the stores share it.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use crate::{
    peers::Process,
    table::{Table, figure, median, percentile},
};

/// How often a crowd of waiters contends.
const WINDOWS: usize = 3;
/// More processes of an interpreter start too slowly.
const MOST_PROCESSES_OF_PYTHON: usize = 16;
const TITLES: [&str; 4] =
    ["acquisitions a second", "median of a wait, ms", "99th percentile of a wait, ms", "never acquired"];

/// Processes that use locks in the same way.
pub(crate) struct Crowd {
    members: Vec<Process>,
    /// The tasks of each process.
    tasks: usize,
}

/// What a crowd did in a window.
pub(crate) struct Outcome {
    /// The time of each acquisition, in microseconds.
    pub(crate) waits: Vec<f64>,
    /// The number of tasks that never acquired.
    starved: f64,
    window: Duration,
}

impl Crowd {
    /// Returns a crowd of these processes, once all of them have started.
    pub(crate) fn of(members: Vec<Process>, tasks: usize) -> Self {
        let mut crowd = Self { members, tasks };
        // Connects.
        crowd.work(None, Duration::from_millis(20));
        crowd
    }

    /// Lets all contend for one new name, or each task for its own.
    pub(crate) fn work(&mut self, name: Option<&str>, window: Duration) -> Outcome {
        let (name, seconds) = (name.unwrap_or("-"), window.as_secs_f64());
        for member in &mut self.members {
            member.tell(&format!("contend {name} {seconds} {}", self.tasks));
        }
        let mut outcome = Outcome { waits: Vec::new(), starved: 0.0, window };
        for member in &mut self.members {
            let numbers = member.numbers();
            outcome.starved += numbers[0];
            outcome.waits.extend(&numbers[1..]);
        }
        outcome
    }
}

impl Outcome {
    pub(crate) fn rate(&self) -> f64 {
        self.waits.len() as f64 / self.window.as_secs_f64()
    }
}

/// Returns a name that was not locked before.
pub(crate) fn fresh_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("crowd-{}", COUNT.fetch_add(1, Relaxed))
}

/// Crowds of several sizes that wait for one lock, each in several ways.
pub(crate) struct Contest<'a> {
    pub(crate) title: String,
    pub(crate) names: &'a [&'static str],
    /// Those of the names that are libraries of Python, and wait in a process each.
    pub(crate) python: &'a [&'static str],
    pub(crate) sizes: &'a [usize],
    /// How long a crowd contends.
    pub(crate) window: Duration,
}

/// A column beyond those of [`TITLES`]: its title, and what it shows of a crowd.
pub(crate) type Column<'a> = (&'static str, &'a dyn Fn(&mut Crowd) -> String);

impl Contest<'_> {
    /// Returns a table for each figure, with the sizes as columns. `start` starts a crowd of a name
    /// and a size.
    pub(crate) fn tables(&self, start: impl Fn(&'static str, usize) -> Crowd, more: Option<Column<'_>>) -> Vec<Table> {
        let titles = TITLES.into_iter().chain(more.map(|(title, _)| title));
        let table = |what| {
            let title = format!("{}: {what}", self.title);
            Table::new(title, &self.sizes.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let mut tables: Vec<_> = titles.map(table).collect();
        let of_sizes: Vec<_> = self.sizes.iter().map(|size| self.cells(*size, &start, more)).collect();
        for (next, name) in self.names.iter().enumerate() {
            for (column, table) in tables.iter_mut().enumerate() {
                let cell = |cells: &Vec<Vec<String>>| cells[next].get(column).map_or("–", |cell| cell).to_owned();
                table.row(*name, of_sizes.iter().map(cell));
            }
        }
        tables
    }

    /// Returns the figures of each name, and none where a crowd would be too large.
    fn cells(
        &self,
        size: usize,
        start: &impl Fn(&'static str, usize) -> Crowd,
        more: Option<Column<'_>>,
    ) -> Vec<Vec<String>> {
        let start = |name: &&'static str| {
            let too_many = self.python.contains(name) && size > MOST_PROCESSES_OF_PYTHON;
            (!too_many).then(|| start(name, size))
        };
        let mut crowds: Vec<_> = self.names.iter().map(start).collect();
        let mut outcomes: Vec<_> = crowds.iter().map(|_| Vec::new()).collect();
        for _ in 0..WINDOWS {
            for (crowd, outcomes) in crowds.iter_mut().zip(&mut outcomes) {
                outcomes.extend(crowd.as_mut().map(|crowd| crowd.work(Some(&fresh_name()), self.window)));
            }
        }
        let cells = |(crowd, outcomes): (&mut Option<Crowd>, Vec<Outcome>)| {
            let Some(crowd) = crowd else { return Vec::new() };
            shown(&outcomes).into_iter().chain(more.map(|(_, show)| show(crowd))).collect()
        };
        crowds.iter_mut().zip(outcomes).map(cells).collect()
    }
}

/// Returns the figures of [`TITLES`].
fn shown(outcomes: &[Outcome]) -> [String; 4] {
    let of = |figure: fn(&Outcome) -> f64| median(&outcomes.iter().map(figure).collect::<Vec<_>>());
    let waits: Vec<f64> = outcomes.iter().flat_map(|outcome| outcome.waits.iter().copied()).collect();
    let wait = |percent| if waits.is_empty() { "–".into() } else { figure(percentile(&waits, percent) / 1e3) };
    [figure(of(Outcome::rate)), wait(50), wait(99), format!("{:.0}", of(|outcome| outcome.starved))]
}
