//! Runs instances of the Lambda function in Python by AWS's runtime client, on a Lambda Runtime
//! API, with locks in DynamoDB Local.

use std::{path::Path, time::Duration};

use serde_json::json;
use test_support::{
    dynamodb::DynamoDbLocal,
    lambda::{Instance, MINUTE, Outcome},
    python::python,
    wait_for,
};

use crate::{CRATE, Package};

/// A lock table, and the package that the instances use.
struct Function {
    table: String,
    package: Package,
}

impl Function {
    fn new(test: &str) -> Self {
        let table = format!("lambda-{test}-{}", std::process::id());
        DynamoDbLocal::shared().create_table(&table);
        Self { table, package: Package::new() }
    }

    /// Starts one instance: a separate process, which starts cold.
    fn start(&self, options: &str) -> Instance {
        let endpoint = DynamoDbLocal::shared().endpoint();
        let url = format!("dynamodb://{}?endpoint={endpoint}&skew_bound=200ms&{options}", self.table);
        Instance::start(python(), &url, |command| {
            let handler = Path::new(CRATE).join("../examples/lambda_python");
            command.args(["-m", "awslambdaric", "handler.handler"]).current_dir(handler);
            self.package.add_to(command);
        })
    }
}

#[test]
fn of_three_instances_with_one_event_one_works_and_two_skip() {
    let function = Function::new("three");
    let mut instances: Vec<_> = (0..3).map(|_| function.start("ttl=10s&min_hold=20s")).collect();
    let event = json!({ "steps": 2, "pause_ms": 50 });
    let ids: Vec<_> = instances.iter_mut().map(|instance| instance.invoke(event.clone(), MINUTE)).collect();
    let answers: Vec<_> = instances.iter().zip(&ids).map(|(instance, id)| instance.outcome(id)).collect();
    let worked = |answer: &Outcome| matches!(answer, Outcome::Response(answer) if *answer == json!({ "steps": 2 }));
    let worker = answers.iter().position(worked).unwrap_or_else(|| panic!("none worked: {answers:?}"));
    for (number, answer) in answers.iter().enumerate().filter(|(number, _)| *number != worker) {
        let Outcome::Response(answer) = answer else { panic!("{answer:?}") };
        assert_eq!(*answer, json!({ "skipped": format!("report/{}", ids[worker]) }));
        let skipped = format!("skipped: held by report/{}", ids[worker]);
        assert!(instances[number].process.says(&skipped), "{:#?}", instances[number].process.lines());
    }
}

#[test]
fn an_instance_frozen_past_its_lease_does_not_act() {
    let function = Function::new("frozen");
    let (frozen, other) = (function.start("ttl=3s"), function.start("ttl=3s"));
    let id = frozen.begin_long_work();
    frozen.process.freeze();
    let steps = frozen.steps();
    assert!(wait_for("another instance to take over", || other.works()));
    frozen.process.thaw();
    match frozen.outcome(&id) {
        Outcome::Error(error) => assert!(error.contains("was lost"), "{error}"),
        Outcome::Response(answer) => panic!("{answer}"),
    }
    assert_eq!(frozen.steps(), steps, "{:#?}", frozen.process.lines());
    assert!(frozen.works(), "it can work on the next event");
}

#[test]
fn a_cold_instance_takes_over_from_a_killed_one() {
    let function = Function::new("killed");
    let mut killed = function.start("ttl=3s");
    let id = killed.begin_long_work();
    killed.process.kill();
    let cold = function.start("ttl=3s");
    assert!(wait_for("a cold instance to take over", || cold.works()));
    cold.process.wait_for(&format!("took over from report/{id}"));
}

#[test]
fn no_lease_outlives_the_invocation() {
    let function = Function::new("deadline");
    let (first, other) = (function.start("ttl=10m"), function.start("ttl=10m"));
    assert!(first.works(), "the instance is warm");
    let id = first.invoke(json!({ "steps": 1000, "pause_ms": 50 }), Duration::from_secs(5));
    match first.outcome(&id) {
        Outcome::Error(error) => assert!(error.contains("deadline"), "{error}"),
        Outcome::Response(answer) => panic!("{answer}"),
    }
    assert!(wait_for("the next instance", || other.works()));
}
