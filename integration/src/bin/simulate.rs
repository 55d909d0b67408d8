//! Runs many simulations of the core, or one seed again:
//! `simulate [--json] [--seeds N] [--from SEED] [--mistake NAME]`, or `simulate --list-mistakes`.

use std::process::ExitCode;

fn main() -> Result<ExitCode, String> {
    test_support::sim::command(None)
}
