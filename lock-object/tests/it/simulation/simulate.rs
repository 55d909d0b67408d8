//! Runs many simulations of the backend, or one again: `simulate_objects [--json] [--seeds N]
//! [--from SEED] [--mistake NAME]`.

mod model;
mod simulated;

use std::process::ExitCode;

fn main() -> Result<ExitCode, String> {
    test_support::sim::command(Some(&simulated::SimulatedObjects::default()))
}
