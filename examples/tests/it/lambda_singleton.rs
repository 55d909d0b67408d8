//! Runs instances of the Lambda function on a Lambda Runtime API, with locks in DynamoDB Local.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use test_support::{wait_for, wire::Wire};

use crate::fixture::{
    dynamo::Table,
    runtime_api::{Instance, MINUTE, Outcome},
};

const TEMPLATE: &str = include_str!("../../lambda_singleton/template.json");

fn start(url: &str) -> Instance {
    Instance::start(env!("CARGO_BIN_EXE_lambda_singleton"), url, |_| ())
}

#[test]
fn of_three_instances_with_one_event_one_works_and_two_skip() {
    let table = Table::new();
    let instances: Vec<_> = (0..3).map(|_| start(&table.url("ttl=10s&min_hold=10s"))).collect();
    let ids = instances.iter().map(|i| i.invoke(json!({ "steps": 2, "pause_ms": 50 }), MINUTE)).collect::<Vec<_>>();
    let mut worked = Vec::new();
    for (instance, id) in instances.iter().zip(&ids) {
        match instance.outcome(id) {
            Outcome::Response(answer) if answer == json!({ "steps": 2 }) => worked.push(id),
            Outcome::Response(answer) => {
                assert!(answer["skipped"].as_str().unwrap().starts_with("report/"), "{answer}");
            }
            Outcome::Error(error) => panic!("{error}"),
        }
    }
    let [worker] = worked.as_slice() else { panic!("{} worked", worked.len()) };
    // The log of each refused instance names the id that is in the log of the holder.
    for (instance, id) in instances.iter().zip(&ids).filter(|(_, id)| id != worker) {
        let skipped = format!("skipped: \"nightly-report\" is held by report/{worker} ");
        assert!(instance.process.says(&skipped), "{id}: {:#?}", instance.process.lines());
    }
    // The schedule fires again, long after the first work has ended.
    assert!(!instances[0].works(), "min_hold keeps the lock");
    // The next event after `min_hold` is worked on.
    assert!(wait_for("the end of min_hold", || instances[1].works()));
}

#[test]
fn an_instance_frozen_past_its_lease_does_not_act() {
    let table = Table::new();
    let frozen = start(&table.url("ttl=4s"));
    let other = start(&table.url("ttl=4s"));
    let id = frozen.begin_long_work();
    frozen.process.freeze();
    let steps = frozen.steps();
    assert!(wait_for("another instance to take over", || other.works()));
    frozen.process.thaw();
    match frozen.outcome(&id) {
        Outcome::Error(error) => {
            assert!(
                error.contains("\"nightly-report\" was lost: the process or its runtime did not run for"),
                "{error}"
            );
        }
        Outcome::Response(answer) => panic!("{answer}"),
    }
    assert_eq!(frozen.steps(), steps, "{:#?}", frozen.process.lines());
    assert!(frozen.works(), "it can work on the next event");
}

#[test]
fn a_cold_instance_takes_over_from_a_killed_one() {
    let table = Table::new();
    let mut killed = start(&table.url("ttl=3s"));
    let id = killed.begin_long_work();
    killed.process.kill();
    let mut colds = Vec::new();
    let took_over = wait_for("a cold instance to take over", || {
        colds.push(start(&table.url("ttl=3s")));
        colds.last().is_some_and(Instance::works)
    });
    assert!(took_over);
    colds.pop().unwrap().process.wait_for(&format!("took over from report/{id}"));
}

#[test]
fn no_lease_outlives_the_invocation() {
    let table = Table::new();
    let url = table.url("ttl=10m");
    let (first, other) = (start(&url), start(&url));
    assert!(wait_for("the instance to be ready", || first.api.times().0.is_some()));
    let id = first.invoke(json!({ "steps": 1000, "pause_ms": 100 }), Duration::from_secs(8));
    first.process.wait_for("step 1 of");
    let refused = other.invoke(json!({}), MINUTE);
    let Outcome::Response(answer) = other.outcome(&refused) else { panic!("a refusal is not an error") };
    let expires_in = answer["skipped"]
        .as_str()
        .and_then(|holder| holder.rsplit_once("expires in "))
        .expect("a refusal says when the lease expires")
        .1;
    let seconds: u64 = expires_in.trim_end_matches(" s").parse().expect("seconds");
    assert!(seconds <= 8, "the lease of ten minutes ends with the invocation: {answer}");
    match first.outcome(&id) {
        Outcome::Error(error) => assert!(error.ends_with("its deadline was reached, less the margin"), "{error}"),
        Outcome::Response(answer) => panic!("{answer}"),
    }
    assert!(wait_for("the lock to be free", || other.works()));
}

#[test]
fn requests_end_with_the_answer_and_match_the_template() {
    let table = Table::new();
    let (first_wire, other_wire) = (Wire::start(table.address()), Wire::start(table.address()));
    let first = start(&table.url_at(&first_wire.endpoint(), "ttl=3s"));
    let other = start(&table.url_at(&other_wire.endpoint(), "ttl=3s"));
    let id = first.invoke(json!({ "steps": 4, "pause_ms": 800 }), MINUTE);
    let Outcome::Response(_) = first.outcome(&id) else { panic!("it works") };
    let seen = first_wire.take_seen();
    assert!(seen.len() >= 3, "acquired, renewed and released: {seen:?}");

    // While another instance renews five times, this one sends no request.
    other.begin_long_work();
    let mut requests = Vec::new();
    assert!(wait_for("five renewals", || {
        requests.extend(other_wire.take_seen());
        requests.len() > 5
    }));
    assert_eq!(first_wire.take_seen(), Vec::<String>::new());

    // A refusal and a takeover cause the other calls of the handler.
    assert!(!first.works());
    drop(other);
    assert!(wait_for("the lock to be free", || first.works()));
    requests.extend(first_wire.take_seen());
    let called: BTreeSet<_> =
        seen.into_iter().chain(requests).map(|operation| format!("dynamodb:{operation}")).collect();
    assert_eq!(called, allowed());
}

/// Returns the actions that the template allows the function on its lock table, and only there.
fn allowed() -> BTreeSet<String> {
    let template: Value = serde_json::from_str(TEMPLATE).expect("it is JSON");
    let policies = template["Resources"]["Report"]["Properties"]["Policies"].as_array().expect("a list").clone();
    let [policy] = policies.as_slice() else { panic!("one policy") };
    let [statement] = policy["Statement"].as_array().expect("a list").as_slice() else { panic!("one statement") };
    assert_eq!(statement["Effect"], "Allow");
    assert_eq!(statement["Resource"], json!({ "Fn::GetAtt": ["Locks", "Arn"] }));
    let actions = statement["Action"].as_array().expect("a list").iter();
    actions.map(|action| action.as_str().expect("text").to_owned()).collect()
}
