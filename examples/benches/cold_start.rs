//! Measures how long a new instance of the Lambda function takes until it asks for its first event,
//! and until it answers the event: `cargo bench -p examples`.
//!
//! For the binary of the package: `LAMBDA_BINARY=…/lambda_singleton cargo bench -p examples`.

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/it/fixture/dynamo.rs"]
mod dynamo;

use std::{
    env,
    process::Stdio,
    time::{Duration, Instant},
};

use dynamo::Table;
use serde_json::json;
use test_support::{lambda::RuntimeApi, wait_for};

const STARTS: usize = 30;

fn main() {
    let program = env::var("LAMBDA_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_lambda_singleton").into());
    let table = Table::new();
    let (mut to_next, mut to_answer) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let api = RuntimeApi::start();
        api.invoke("first", json!({}), Duration::from_secs(60));
        let mut command = api.command(&program, &table.url("ttl=30s"));
        let started = Instant::now();
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the program starts");
        assert!(wait_for("the answer", || api.take_outcome("first").is_some()));
        let (Some(next), Some(answer)) = api.times() else { panic!("it has asked and answered") };
        to_next.push(next - started);
        to_answer.push(answer - started);
        process.kill().and_then(|()| process.wait()).expect("it waits for the next event");
    }
    let size = std::fs::metadata(&program).expect("it has just run").len();
    println!("{program}: {size} bytes");
    for (what, mut times) in [("first event asked for", to_next), ("first event answered", to_answer)] {
        times.sort();
        println!("{what}: median {:.1?}, slowest {:.1?} of {STARTS}", times[STARTS / 2], times[STARTS - 1]);
    }
}
