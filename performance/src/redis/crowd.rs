//! Measures many tasks and many processes at once.

mod member;

use std::time::Duration;

pub(crate) use member::contend;
use test_support::{Direction, Proxy, redis::RedisServer};

use super::requests;
use crate::{
    crowd::{Contest, Crowd, fresh_name},
    effort::Effort,
    flavor::Flavor,
    peers::Process,
    table::{Table, figure},
    turns::{self, Block},
};

/// How long the tasks of one block work.
const BLOCK: Duration = Duration::from_millis(300);
const BLOCKS: usize = 9;
const TASKS: usize = 64;
/// How long a request takes to a store of another machine.
const DISTANCE: Duration = Duration::from_millis(1);
/// How long a crowd of waiters contends.
const WINDOW: Duration = Duration::from_secs(1);
const CROWDS: [usize; 5] = [1, 4, 16, 64, 256];
/// Libraries of Python.
const PYTHON: [&str; 2] = ["redis-py", "python-redis-lock"];
const PROCESSES: [usize; 4] = [1, 4, 16, 64];

fn start(how: &str, port: u16, flavor: Flavor, processes: usize, tasks: usize) -> Crowd {
    let place = port.to_string();
    let start = |_| match how {
        how if PYTHON.contains(&how) => Process::python(how, &place),
        "node redlock" => Process::redlock(port),
        _ => Process::own(["contend", "redis", how, &place, flavor.name()]),
    };
    Crowd::of((0..processes).map(start).collect(), tasks)
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
    let crowd = |name: &&str| {
        // One after the other, as a program without a lock for its tasks.
        let tasks = if *name == "one request each" { 1 } else { TASKS };
        start(name, port, flavor, 1, tasks)
    };
    let mut crowds: Vec<_> = names.iter().map(crowd).collect();
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

/// Waiters for one lock, in one process and in a process each, on both runtimes.
pub(crate) fn waiters(effort: Effort) -> Vec<Table> {
    let ours = ["raw queue", "onelock", "onelock, fair", "rslock"];
    let on = |flavor: Flavor| {
        // Libraries of other languages have no such runtime.
        let of = |others: &[&'static str]| match flavor {
            Flavor::CurrentThread => [&ours, others].concat(),
            Flavor::TwoWorkers => ours.to_vec(),
        };
        let one_process = crowds("in one process", &of(&["node redlock"]), flavor, effort, |n| (1, n));
        one_process.into_iter().chain(crowds("in a process each", &of(&PYTHON), flavor, effort, |n| (n, 1)))
    };
    Flavor::ALL.into_iter().flat_map(on).collect()
}

fn crowds(
    place: &str,
    names: &[&'static str],
    flavor: Flavor,
    effort: Effort,
    shape: fn(usize) -> (usize, usize),
) -> Vec<Table> {
    let server = RedisServer::start();
    let contest = Contest {
        title: format!("Waiters {place}{}", flavor.suffix()),
        names,
        python: &PYTHON,
        sizes: &CROWDS,
        window: effort.window(WINDOW),
    };
    let start = |how, size| {
        let (processes, tasks) = shape(size);
        start(how, server.port(), flavor, processes, tasks)
    };
    contest.tables(start, Some(("requests for each", &|crowd| sent(&server, crowd, true))))
}

/// Processes that each lock their own name.
pub(crate) fn processes(effort: Effort) -> Vec<Table> {
    Flavor::ALL.map(|flavor| processes_on(flavor, effort)).into()
}

fn processes_on(flavor: Flavor, effort: Effort) -> Table {
    let server = RedisServer::start();
    let names = ["raw", "onelock", "rslock"];
    let mut rows = [const { Vec::new() }; 3];
    for processes in PROCESSES {
        let mut crowds = names.map(|name| start(name, server.port(), flavor, processes, 1));
        let blocks =
            turns::take(names.len(), effort.rounds(BLOCKS), |next| vec![crowds[next].work(None, BLOCK).rate()]);
        for (row, blocks) in rows.iter_mut().zip(blocks) {
            row.push(figure(turns::middle(&blocks)));
        }
    }
    let title = format!("Processes with a lock each{}: acquisitions a second", flavor.suffix());
    let mut table = Table::new(title, &PROCESSES.map(|size| size.to_string()));
    for (name, row) in names.into_iter().zip(rows) {
        table.row(name, row);
    }
    table
}
