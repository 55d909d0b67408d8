//! Loads a million rows from CSV into SQLite while the job is killed, frozen and cut off. In the
//! end the database contains every row once.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use rusqlite::Connection;
use tempfile::TempDir;
use test_support::{redis::RedisServer, wait_for};

use crate::fixture::Process;

const ROWS: u64 = 1_000_000;

struct Job {
    dir: TempDir,
    redis: RedisServer,
}

impl Job {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut csv = BufWriter::new(File::create(dir.path().join("orders.csv")).unwrap());
        for id in 0..ROWS {
            writeln!(csv, "{id},customer {},{}", id % 1_009, id * 7_919 % 100_000).unwrap();
        }
        csv.flush().unwrap();
        Self { dir, redis: RedisServer::start() }
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join("orders.db")
    }

    fn start(&self) -> Process {
        let url = format!("redis://127.0.0.1:{}?ttl=6s&grace=1s", self.redis.port());
        let mut command = Command::new(env!("CARGO_BIN_EXE_etl_guard"));
        Process::start(command.arg(self.dir.path().join("orders.csv")).arg(self.database()).env("ONELOCK_URL", url))
    }

    /// Returns the answer of a query that selects one number.
    fn number(&self, query: &str) -> u64 {
        let database = Connection::open(self.database()).unwrap();
        database.busy_timeout(Duration::from_secs(60)).unwrap();
        database.query_row(query, [], |row| row.get(0)).unwrap()
    }

    fn assert_every_row_once(&self) {
        assert_eq!(self.number("SELECT count(*) FROM orders"), ROWS);
        assert_eq!(self.number("SELECT count(DISTINCT id) FROM orders"), ROWS);
        assert_eq!(self.number("SELECT min(id) FROM orders"), 0);
        assert_eq!(self.number("SELECT max(id) FROM orders"), ROWS - 1);
        let cents: u64 = (0..ROWS).map(|id| id * 7_919 % 100_000).sum();
        assert_eq!(self.number("SELECT sum(cents) FROM orders"), cents);
    }
}

/// Whether the writing thread of `process` sleeps. It sleeps while it waits for the database's
/// lock, and never between two batches.
fn sleeps(process: &Process) -> bool {
    let stat = fs::read_to_string(format!("/proc/{0}/task/{0}/stat", process.pid())).unwrap();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
}

#[test]
fn a_killed_job_resumes_and_loads_every_row_once() {
    let job = Job::new();
    let mut first = job.start();
    first.wait_for("starting at row 0");
    first.wait_for("100000 rows, ");
    first.kill();
    let mut second = job.start();
    assert!(second.ends().success(), "{:#?}", second.lines());
    let start = second.lines().iter().find_map(|line| line.strip_prefix("starting at row ")?.parse::<u64>().ok());
    assert!(start.is_some_and(|row| (100_000..=ROWS).contains(&row)), "{:#?}", second.lines());
    second.wait_for(&format!("done: {ROWS} rows in the database"));
    second.wait_for("released: Released");
    job.assert_every_row_once();
    // A further run finds nothing to do.
    let mut third = job.start();
    assert!(third.ends().success());
    third.wait_for(&format!("starting at row {ROWS}"));
    job.assert_every_row_once();
}

#[test]
fn the_database_refuses_the_late_batch_of_a_frozen_job() {
    let job = Job::new();
    let mut zombie = job.start();
    zombie.wait_for("100000 rows, ");
    // The next batch has passed the check of the lock, and waits for the database's own lock. The
    // job leaves the database for moments only, so it is stopped until it has left it.
    let database = Connection::open(job.database()).unwrap();
    database.busy_timeout(Duration::ZERO).unwrap();
    assert!(wait_for("the job to stop between two batches", || {
        zombie.freeze();
        let is_free = database.execute_batch("BEGIN IMMEDIATE").is_ok();
        zombie.thaw();
        is_free
    }));
    // The samples need not be consecutive: the job polls the lock, and on a busy machine it waits
    // for a processor in between.
    let mut asleep = 0_i32;
    assert!(wait_for("the batch to wait for the database", || {
        asleep = (asleep + if sleeps(&zombie) { 1 } else { -1 }).max(0);
        asleep > 20
    }));
    zombie.freeze();
    database.execute_batch("ROLLBACK").unwrap();
    let before = job.number("SELECT count(*) FROM orders");
    // Another job waits for the lease to end, and loads the next batches.
    let mut other = job.start();
    assert!(wait_for("another job to load a batch", || job.number("SELECT count(*) FROM orders") > before));
    // The first job thaws while the other one loads.
    zombie.thaw();
    assert!(!zombie.ends().success());
    zombie.wait_for("the database refused the batch: token ");
    assert!(other.ends().success(), "{:#?}", other.lines());
    job.assert_every_row_once();
}

#[test]
fn a_job_that_cannot_renew_stops_before_its_lease_ends() {
    let mut job = Job::new();
    let mut process = job.start();
    process.wait_for("100000 rows, ");
    job.redis.kill();
    // The pauses simulate a slow machine: a fast one loads all rows before the lease ends. The
    // condition is that the job stops.
    assert!(wait_for("the job to stop", || {
        process.freeze();
        std::thread::sleep(Duration::from_millis(200));
        process.thaw();
        process.says("stopped: ")
    }));
    assert_eq!(process.ends().code(), Some(75), "{:#?}", process.lines());
    process.wait_for("stopped: the lock \"etl/orders\" was lost: no renewal was confirmed for ");
    job.redis.restart();
    let mut next = job.start();
    assert!(next.ends().success(), "{:#?}", next.lines());
    job.assert_every_row_once();
}
