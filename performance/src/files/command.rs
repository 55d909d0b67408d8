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
    table::{Table, micros},
    turns::{self, Block},
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
            "onelock run x -- true" => drop(command.args(["run", "--url", &url, "x", "--", "true"])),
            _ => drop(command.args(["run", "--no-fork", "--url", &url, "x", "--", "true"])),
        }
        command
    };
    let names = ["flock FILE true", "onelock run x -- true", "onelock run --no-fork x -- true", "true"];
    let mut faults = [0; 4];
    let rounds = effort.rounds(ROUNDS);
    let blocks = turns::take(names.len(), rounds, |next| {
        let before = children();
        let figures = (0..STARTS).map(|_| start(&mut command(names[next]))).collect();
        let used = children();
        faults[next] += used.faults - before.faults;
        Block { figures, processor: micros((used.processor - before.processor) / STARTS) }
    });
    // The first round, which is left out of the times, counts too.
    let starts = (rounds as i64 + 1) * i64::from(STARTS);
    let columns = ["relative to flock", "processor, µs", "relative to flock", "page faults"];
    let columns = [&turns::COLUMNS[..2], &columns].concat();
    let mut table = Table::new("Start of the command", &columns);
    for (next, name) in names.iter().enumerate() {
        let (mine, flock) = (&blocks[next], &blocks[0]);
        let faults = (faults[next] / starts).to_string();
        let rest = [turns::processor(mine), turns::ratio(mine, flock, |block| block.processor), faults];
        table.row(*name, turns::figures(mine, flock).into_iter().chain(rest));
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

struct Used {
    processor: Duration,
    /// The pages of memory that the kernel had to provide or copy.
    faults: i64,
}

/// Returns what all children have used that have ended, and theirs.
fn children() -> Used {
    let used = getrusage(UsageWho::RUSAGE_CHILDREN).expect("it cannot fail");
    let time = |time: TimeVal| Duration::new(time.tv_sec().unsigned_abs(), 1_000 * time.tv_usec() as u32);
    Used { processor: time(used.user_time()) + time(used.system_time()), faults: used.minor_page_faults() }
}
