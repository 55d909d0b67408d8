//! Measures the start of the command beside that of flock(1).

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};

use super::directory;
use crate::{
    effort::Effort,
    table::{Table, figure, median, micros},
    turns,
};

const ROUNDS: usize = 40;
/// The number of starts in a block.
const STARTS: u32 = 5;

pub(crate) fn run(effort: Effort) -> Vec<Table> {
    let dir = directory();
    let file = dir.path().join("flock.lock");
    let url = format!("file://{}", dir.path().display());
    let onelock = build();
    let command = |name: &str| {
        let mut command = Command::new(match name {
            "true" => Path::new("true"),
            "flock FILE true" => Path::new("flock"),
            _ => &onelock,
        });
        match name {
            "true" => {}
            "flock FILE true" => drop(command.arg(&file).arg("true")),
            _ => drop(command.args(["run", "--url", &url, "x", "--", "true"])),
        }
        command
    };
    let names = ["flock FILE true", "onelock run x -- true", "true"];
    let mut processor = vec![Vec::new(); names.len()];
    let blocks = turns::take(names.len(), effort.rounds(ROUNDS), |next| {
        let used = children();
        let times = (0..STARTS).map(|_| start(&mut command(names[next]))).collect();
        processor[next].push(micros((children() - used) / STARTS));
        times
    });
    let columns = [&turns::COLUMNS[..2], &["relative to flock", "processor, µs", "relative to flock"]].concat();
    let mut table = Table::new("Start of the command", &columns);
    for (next, name) in names.iter().enumerate() {
        let ratios: Vec<f64> = processor[next].iter().zip(&processor[0]).map(|(mine, flock)| mine / flock).collect();
        let rest = [figure(median(&processor[next])), format!("{:.2}", median(&ratios))];
        table.row(*name, turns::figures(&blocks[next], &blocks[0]).into_iter().chain(rest));
    }
    vec![table]
}

/// Builds the command as users get it, with its default features.
pub(crate) fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let built = Command::new(cargo).args(["build", "--quiet", "--profile", profile, "-p", "onelock-cli"]).status();
    assert!(built.is_ok_and(|status| status.success()), "cargo build -p onelock-cli failed");
    std::env::current_exe().expect("this program has a path").with_file_name("onelock")
}

fn start(command: &mut Command) -> f64 {
    let start = Instant::now();
    assert!(command.status().expect("it starts").success());
    micros(start.elapsed())
}

/// Returns the processor time of all children that have ended, and of theirs.
fn children() -> Duration {
    let used = getrusage(UsageWho::RUSAGE_CHILDREN).expect("it cannot fail");
    let time = |time: TimeVal| Duration::new(time.tv_sec().unsigned_abs(), 1_000 * time.tv_usec() as u32);
    time(used.user_time()) + time(used.system_time())
}
