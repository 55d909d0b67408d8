//! Measures many tasks and many processes at once.

mod member;

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

pub(crate) use member::contend;
use test_support::{Direction, Proxy, redis::RedisServer};

use super::requests;
use crate::{
    effort::Effort,
    flavor::Flavor,
    peers::Process,
    table::{Table, figure, median, percentile},
    turns::{self, Block},
};

/// How long the tasks of one block work.
const BLOCK: Duration = Duration::from_millis(300);
const BLOCKS: usize = 9;
const TASKS: usize = 64;
/// How long a request takes to a store of another machine.
const DISTANCE: Duration = Duration::from_millis(1);
/// How long a crowd of waiters contends, and how often.
const WINDOW: Duration = Duration::from_secs(1);
const WINDOWS: usize = 3;
const CROWDS: [usize; 5] = [1, 4, 16, 64, 256];
/// More processes of an interpreter start too slowly.
const MOST_PROCESSES_OF_PYTHON: usize = 16;
const PROCESSES: [usize; 4] = [1, 4, 16, 64];

/// Processes that use locks in the same way.
pub(crate) struct Crowd {
    members: Vec<Process>,
    /// The tasks of each process.
    tasks: usize,
}

/// What a crowd did in a window.
#[derive(Clone)]
pub(crate) struct Outcome {
    /// The time of each acquisition, in microseconds.
    pub(crate) waits: Vec<f64>,
    /// The number of tasks that never acquired.
    pub(crate) starved: f64,
    window: Duration,
}

impl Crowd {
    fn start(how: &str, port: u16, flavor: Flavor, processes: usize, tasks: usize) -> Self {
        let place = port.to_string();
        let start = |_| match how {
            "redis-py" => Process::python(how, &place),
            "node redlock" => Process::redlock(port),
            _ => Process::own(["contend", "redis", how, &place, flavor.name()]),
        };
        Self::of((0..processes).map(start).collect(), tasks)
    }

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

/// 64 tasks on 64 names and on one name, in one process.
pub(crate) fn tasks(effort: Effort) -> Vec<Table> {
    let apart = ["raw", "raw with a token", "onelock", "rslock", "node redlock", "redis-py"];
    let together = [
        "one request each",
        "raw queue",
        "onelock",
        "onelock, hand_over=100",
        "onelock, hand_over=1000",
        "rslock",
        "mutex, no store",
        "channel, no store",
    ];
    let server = RedisServer::start();
    let near = |title: String, flavor, names, one_name| {
        rates(title, flavor, names, one_name, effort, (&server, server.port()))
    };
    let mut tables = Vec::new();
    for flavor in Flavor::ALL {
        tables.push(near(format!("64 tasks on 64 locks, {}", flavor.name()), flavor, &apart, false));
        tables.push(near(format!("64 tasks on one lock, {}", flavor.name()), flavor, &together, true));
    }
    tables.push(far(&server, &together[..5], effort));
    tables
}

/// One lock on a store that is not on this machine.
fn far(server: &RedisServer, names: &[&str], effort: Effort) -> Table {
    let network = Flavor::TwoWorkers.runtime();
    let proxy = network.block_on(Proxy::start(server.addr()));
    proxy.delay(Direction::Requests, DISTANCE);
    let title = "64 tasks on one lock, the store 1 ms away".to_owned();
    rates(title, Flavor::CurrentThread, names, true, effort, (server, proxy.addr().port()))
}

/// `port` leads to the server.
fn rates(
    title: String,
    flavor: Flavor,
    names: &[&str],
    one_name: bool,
    effort: Effort,
    (server, port): (&RedisServer, u16),
) -> Table {
    let start = |name: &&str| {
        // One after the other, as a program without a lock for its tasks.
        let tasks = if *name == "one request each" { 1 } else { TASKS };
        Crowd::start(name, port, flavor, 1, tasks)
    };
    let mut crowds: Vec<_> = names.iter().map(start).collect();
    let blocks = turns::take(names.len(), effort.rounds(BLOCKS), |next| {
        let name = one_name.then(fresh_name);
        vec![crowds[next].work(name.as_deref(), BLOCK).rate()]
    });
    let measure = if one_name { "relative to one request each" } else { "relative to raw" };
    let mut table = Table::new(title, &["acquisitions a second", measure, "requests for each"]);
    for (next, name) in names.iter().enumerate() {
        let rate = figure(turns::middle(&blocks[next]));
        let ratio = turns::ratio(&blocks[next], &blocks[0], Block::median);
        table.row(*name, [rate, ratio, sent(server, &mut crowds[next], one_name)]);
    }
    table
}

/// Returns the requests for each acquisition.
fn sent(server: &RedisServer, crowd: &mut Crowd, one_name: bool) -> String {
    let mut acquired = 0;
    let requests = requests(server, || {
        let name = one_name.then(fresh_name);
        acquired = crowd.work(name.as_deref(), BLOCK).waits.len();
    });
    if acquired == 0 { "–".into() } else { figure(f64::from(requests) / acquired as f64) }
}

/// Waiters for one lock, in one process and in a process each.
pub(crate) fn waiters(effort: Effort) -> Vec<Table> {
    let one_process =
        crowds("in one process", &["raw queue", "onelock", "onelock, fair", "rslock", "node redlock"], effort, |n| {
            (1, n)
        });
    let many =
        crowds("in a process each", &["raw queue", "onelock", "onelock, fair", "rslock", "redis-py"], effort, |n| {
            (n, 1)
        });
    one_process.into_iter().chain(many).collect()
}

fn crowds(place: &str, names: &[&'static str], effort: Effort, shape: fn(usize) -> (usize, usize)) -> Vec<Table> {
    let server = RedisServer::start();
    let titles = ["acquisitions a second", "99th percentile of a wait, ms", "never acquired", "requests for each"];
    let mut rows = vec![[const { Vec::new() }; 4]; names.len()];
    for size in CROWDS {
        let (processes, tasks) = shape(size);
        let start = |name: &&'static str| {
            let too_many = *name == "redis-py" && processes > MOST_PROCESSES_OF_PYTHON;
            (!too_many).then(|| Crowd::start(name, server.port(), Flavor::CurrentThread, processes, tasks))
        };
        let mut all: Vec<_> = names.iter().map(start).collect();
        let mut outcomes = vec![Vec::new(); names.len()];
        for _ in 0..WINDOWS {
            for (crowd, outcomes) in all.iter_mut().zip(&mut outcomes) {
                outcomes.extend(crowd.as_mut().map(|crowd| crowd.work(Some(&fresh_name()), effort.window(WINDOW))));
            }
        }
        for ((crowd, outcomes), rows) in all.iter_mut().zip(outcomes).zip(&mut rows) {
            let sent = crowd.as_mut().map(|crowd| sent(&server, crowd, true));
            let cells = sent.map_or_else(|| ["–"; 4].map(String::from), |sent| cells(&outcomes, sent));
            for (row, cell) in rows.iter_mut().zip(cells) {
                row.push(cell);
            }
        }
    }
    let table = |(column, what): (usize, &str)| {
        let mut table = Table::new(format!("Waiters {place}: {what}"), &CROWDS.map(|size| size.to_string()));
        for (name, rows) in names.iter().zip(&rows) {
            table.row(*name, rows[column].clone());
        }
        table
    };
    titles.into_iter().enumerate().map(table).collect()
}

fn cells(outcomes: &[Outcome], sent: String) -> [String; 4] {
    let of = |figure: fn(&Outcome) -> f64| median(&outcomes.iter().map(figure).collect::<Vec<_>>());
    let waits: Vec<f64> = outcomes.iter().flat_map(|outcome| outcome.waits.iter().copied()).collect();
    let late = if waits.is_empty() { "–".into() } else { figure(percentile(&waits, 99) / 1e3) };
    [figure(of(Outcome::rate)), late, format!("{:.0}", of(|outcome| outcome.starved)), sent]
}

/// Processes that each lock their own name.
pub(crate) fn processes(effort: Effort) -> Vec<Table> {
    let server = RedisServer::start();
    let names = ["raw", "onelock", "rslock"];
    let mut rows = [const { Vec::new() }; 3];
    for processes in PROCESSES {
        let start = |name| Crowd::start(name, server.port(), Flavor::CurrentThread, processes, 1);
        let mut crowds = names.map(start);
        let blocks =
            turns::take(names.len(), effort.rounds(BLOCKS), |next| vec![crowds[next].work(None, BLOCK).rate()]);
        for (row, blocks) in rows.iter_mut().zip(blocks) {
            row.push(figure(turns::middle(&blocks)));
        }
    }
    let mut table =
        Table::new("Processes with a lock each: acquisitions a second", &PROCESSES.map(|size| size.to_string()));
    for (name, row) in names.into_iter().zip(rows) {
        table.row(name, row);
    }
    vec![table]
}
