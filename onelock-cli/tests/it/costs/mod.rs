//! What a start of the command costs, without a clock: all of `onelock run x -- true`, which is in
//! front of every job. `true` itself is not counted.
//!
//! `ONELOCK_GOLDEN=write cargo nextest run -p onelock-cli --all-features costs` writes the figures
//! anew; read the difference before it is committed.

use std::{path::Path, process::Command};

use test_support::{
    Scratch, callgrind,
    figures::{Figure, INSTRUCTIONS, compare},
};

use crate::run::fixture::without_preferences;

/// The least of so many counts. A start waits for other processes, and now and then does more
/// meanwhile: on a busy machine one in ten took 9 million instructions instead of 5. System calls
/// are not compared, because waits change them by a tenth.
const STARTS: usize = 3;

#[test]
fn a_start_of_the_command_costs_what_is_recorded() {
    let scratch = Scratch::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_onelock"));
    command.args(["run", "--url", &format!("file://{}/locks", scratch.text()), "x", "--", "true"]);
    without_preferences(&mut command);
    // The first start creates the files.
    assert!(command.status().unwrap().success());
    let starts = [(); STARTS].map(|()| callgrind::run(&command));
    let least = starts.iter().map(|start| start.instructions).min().expect("there is one");
    let figure = Figure::new("instructions of both processes", least as f64, INSTRUCTIONS);
    compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/costs/start.txt"), &[figure]);
}
