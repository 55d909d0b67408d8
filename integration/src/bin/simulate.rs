//! Runs many simulations of the core, or one seed again:
//! `simulate [--memory] [--json] [--seeds N] [--from SEED] [--mistake NAME]`, or
//! `simulate [--memory] --list-mistakes`. With `--memory` the locks have all modes, and waiters a
//! queue.

use std::process::ExitCode;

fn main() -> Result<ExitCode, String> {
    test_support::sim::command(test_support::sim::On::Model)
}
