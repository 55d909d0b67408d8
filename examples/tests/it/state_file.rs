//! A state beside its lock: in a bucket of SeaweedFS, and in a directory.

use std::{fs, process::Command};

use serde_json::Value;
use test_support::{http, object_stores::ObjectStoreServer};

use crate::fixture::Process;

/// A bucket for one test.
struct Bucket {
    server: &'static ObjectStoreServer,
    name: String,
}

impl Bucket {
    fn new(name: &str) -> Self {
        let server = ObjectStoreServer::seaweedfs();
        let name = format!("{name}-{}", std::process::id());
        server.create_bucket(&name);
        Self { server, name }
    }

    fn start(&self, arguments: &[&str]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_state_file"));
        command
            .arg(format!("s3://{}/state.json", self.name))
            .args(arguments)
            .env("AWS_ENDPOINT_URL", self.server.endpoint())
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("ONELOCK_URL", format!("s3://{}/locks?ttl=10s&skew=0s&poll_min=100ms&poll_max=500ms", self.name));
        Process::start(&mut command)
    }

    fn state(&self) -> Value {
        let reply = http::send(self.server.address(), "GET", &format!("/{}/state.json", self.name), &[], b"").unwrap();
        serde_json::from_slice(&reply.body).expect("it is JSON")
    }
}

/// Runs three processes at once, each of which adds one.
fn three_at_once(start: impl Fn() -> Process, state: impl Fn() -> Value) {
    let mut processes = [start(), start(), start()];
    for process in &mut processes {
        assert!(process.ends().success(), "{:#?}", process.lines());
        process.wait_for("written: run ");
        process.wait_for("released: Released");
    }
    assert_eq!(state()["runs"], 3, "each run counts");
    assert!(state()["token"].as_u64() > Some(0), "{}", state());
}

#[test]
fn a_bucket_keeps_a_state_and_its_lock() {
    let bucket = Bucket::new("state");
    three_at_once(|| bucket.start(&[]), || bucket.state());
}

#[test]
fn a_directory_keeps_a_state_and_its_lock() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state.json");
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_state_file"));
        Process::start(command.arg(&state).env("ONELOCK_URL", format!("file://{}/locks", dir.path().display())))
    };
    three_at_once(start, || serde_json::from_slice(&fs::read(&state).unwrap()).unwrap());
}

#[test]
fn a_bucket_refuses_a_state_of_a_paused_holder() {
    let bucket = Bucket::new("paused");
    let mut first = bucket.start(&["3000"]);
    first.wait_for("locked, token ");
    first.freeze();
    let mut second = bucket.start(&[]);
    assert!(second.ends().success(), "{:#?}", second.lines());
    second.wait_for("written: run 1 with token ");
    let written = bucket.state();
    first.thaw();
    first.wait_for("refused: run 1 with token ");
    first.wait_for("released: NotHeld(");
    assert!(first.ends().success());
    assert_eq!(bucket.state(), written);
}
