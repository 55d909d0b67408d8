//! The manifests of `examples/kubernetes` and `examples/aws`, each checked by its own tool.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nix::sys::signal::Signal;
use serde_json::Value;
use test_support::python::python;

use crate::run::fixture::{Locks, Running};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Returns both output streams.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Checks a file, and a copy that `from` and `to` break: a tool that accepts both proves nothing.
fn accepts_only(check: impl Fn(&Path) -> Output, path: &Path, from: &str, to: &str) {
    let checked = check(path);
    assert!(checked.status.success(), "{}", said(&checked));
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from));
    let directory = tempfile::tempdir().unwrap();
    let bad = directory.path().join(path.file_name().unwrap());
    fs::write(&bad, text.replace(from, to)).unwrap();
    let checked = check(&bad);
    assert!(!checked.status.success(), "{}", said(&checked));
}

#[test]
fn kubernetes_accepts_the_deployment() {
    let check = |path: &Path| {
        let tool = "import sys, kubernetes_validate.__main__ as m; sys.exit(m.main())";
        Command::new(python()).args(["-c", tool, "--strict"]).arg(path).output().unwrap()
    };
    accepts_only(check, &root("examples/kubernetes/deployment.yaml"), "initContainers", "initContainer");
}

/// Returns the pod of the deployment.
fn pod() -> Value {
    let script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))['spec']['template']))";
    let file = root("examples/kubernetes/deployment.yaml");
    let parsed = Command::new(python()).args(["-c", script]).arg(file).output().unwrap();
    serde_json::from_slice(&parsed.stdout).unwrap_or_else(|_| panic!("{}", said(&parsed)))
}

fn words(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

#[test]
fn second_pod_takes_over_from_the_first() {
    let pod = pod();
    let copies = words(&pod["spec"]["initContainers"][0]["command"]);
    let command = words(&pod["spec"]["containers"][0]["command"]);
    assert_eq!(copies[2], command[0], "the copied command is the one that runs");
    let locks = Locks::new();
    let url = locks.dir.path().join("url");
    fs::write(&url, locks.url()).unwrap();
    let start = |who: &str| {
        let mut pod = Command::new(env!("CARGO_BIN_EXE_onelock"));
        let until = command.iter().position(|word| *word == "--").unwrap();
        pod.args(&command[1..=until]).args(["sh", "-c", &format!("echo {who} leads; exec sleep 600")]);
        Running::start(pod.env("ONELOCK_URL_FILE", &url).env_remove("ONELOCK_URL"))
    };
    let mut first = start("first");
    first.expect_line("first leads");
    let mut second = start("second");
    assert!(second.message().contains("reports-leader"), "it says that it waits");
    first.signal(Signal::SIGTERM);
    second.expect_line("second leads");
}

fn template() -> Value {
    serde_json::from_str(&fs::read_to_string(root("examples/aws/onelock.cloudformation.json")).unwrap()).unwrap()
}

#[test]
fn cloudformation_accepts_the_template() {
    let lint = python().with_file_name("cfn-lint");
    let check = |path: &Path| Command::new(&lint).args(["--regions", "eu-west-1", "--"]).arg(path).output().unwrap();
    accepts_only(check, &root("examples/aws/onelock.cloudformation.json"), "CacheParameterGroupFamily", "Family");
}

/// Returns the actions of the statements of a policy whose ids `which` accepts.
fn actions(policy: &Value, which: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let statements = policy["Statement"].as_array().unwrap();
    let wanted = statements.iter().filter(|statement| which(statement["Sid"].as_str().unwrap()));
    wanted.flat_map(|statement| words(&statement["Action"])).map(ToOwned::to_owned).collect()
}

#[test]
fn jobs_and_operators_share_the_rights_of_the_policy() {
    let template = template();
    let document = |name: &str| &template["Resources"][name]["Properties"]["PolicyDocument"];
    let policy = fs::read_to_string(root("lock-dynamo/aws/policy.json")).unwrap();
    let policy: Value = serde_json::from_str(&policy).unwrap();
    let job = actions(document("JobPolicy"), |_| true);
    assert_eq!(job, actions(&policy, |sid| ["Locks", "BatchesOfRenewals"].contains(&sid)));
    assert_eq!(actions(document("OperatorPolicy"), |_| true), actions(&policy, |_| true));
}

#[test]
fn redis_parameters_keep_every_lock() {
    let properties = &template()["Resources"]["RedisParameters"]["Properties"]["Properties"];
    assert_eq!(properties["maxmemory-policy"], "noeviction");
}
