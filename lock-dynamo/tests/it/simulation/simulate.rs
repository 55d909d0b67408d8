//! Runs many simulations of the backend, or one again: `simulate_dynamodb [--json] [--seeds N]
//! [--from SEED] [--mistake NAME]`.

mod model_server;
mod sdk;
mod simulated;

use std::process::ExitCode;

fn main() -> Result<ExitCode, String> {
    test_support::sim::command(Some(&simulated::SimulatedDynamo))
}
