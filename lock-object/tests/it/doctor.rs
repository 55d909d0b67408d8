//! Tests the findings about buckets that are set up in a way that matters to locks.

use std::{process::Command, time::Duration};

use lock_core::backend::{Backend, Finding, LeaseId, Level, Release, Renewal};
use lock_object::{ObjectBackend, ObjectConfig};
use test_support::{object_stores::ObjectStoreServer, python::python};

use crate::fixture::{granted, name, request};

const TTL: Duration = Duration::from_secs(60);

/// A bucket that a program of boto3 has set up.
async fn bucket(program: &'static str) -> ObjectBackend {
    named_bucket(&format!("b{}", LeaseId::random()), program).await
}

async fn named_bucket(bucket: &str, program: &'static str) -> ObjectBackend {
    let server = set_up(bucket.to_owned(), program.to_owned()).await;
    let config = ObjectConfig::s3(bucket).endpoint(server.endpoint()).region("us-east-1").access_key("a", "b", None);
    ObjectBackend::new(config.prefix("app/locks")).unwrap()
}

/// Runs a program of boto3 on a bucket of moto.
async fn set_up(bucket: String, program: String) -> &'static ObjectStoreServer {
    let run = move || {
        let server = ObjectStoreServer::moto();
        server.create_bucket(&bucket);
        let start = format!(
            "import boto3, json\nbucket = '{bucket}'\ns3 = boto3.client('s3', endpoint_url='{}', \
             region_name='us-east-1', aws_access_key_id='a', aws_secret_access_key='b')\n",
            server.endpoint()
        );
        let output = Command::new(python()).args(["-c", &(start + &program)]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        server
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn found<'a>(findings: &'a [Finding], subject: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.subject == subject).unwrap_or_else(|| panic!("{subject}: {findings:?}"))
}

const VERSIONED: &str = "s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={'Status': 'Enabled'})\n";

#[tokio::test]
async fn a_plain_bucket_is_good_in_every_respect() {
    let findings = bucket("").await.diagnose().await;
    assert!(findings.iter().all(|finding| finding.level == Level::Good), "{findings:?}");
    for subject in ["conditional writes", "clock", "versioning", "replication", "object lock", "distance"] {
        found(&findings, subject);
    }
}

#[tokio::test]
async fn a_versioned_bucket_locks_and_is_warned_of() {
    let name_of_bucket = format!("b{}", LeaseId::random());
    let backend = named_bucket(&name_of_bucket, VERSIONED).await;
    let lease = granted(&backend, &request(&name("a"), TTL)).await;
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    let next = granted(&backend, &request(&name("a"), TTL)).await;
    assert!(next.token > lease.token);
    let findings = backend.diagnose().await;
    let finding = found(&findings, "versioning");
    assert_eq!(finding.level, Level::Warning, "{findings:?}");
    // S3 takes the rule as it is printed.
    let (_, rule) = finding.advice.as_deref().and_then(|advice| advice.split_once("bucket: ")).expect("a rule");
    let program = format!(
        "rule = json.loads('{rule}')
assert rule['Filter'] == {{'Prefix': 'app/locks'}}, rule
s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={{'Rules': [rule]}})
"
    );
    set_up(name_of_bucket, program).await;
}

#[tokio::test]
async fn a_bucket_replicated_to_another_is_unfit() {
    const REPLICATED: &str = "\
s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={'Status': 'Enabled'})
other = bucket[:20]
s3.create_bucket(Bucket=other)
s3.put_bucket_versioning(Bucket=other, VersioningConfiguration={'Status': 'Enabled'})
rule = {'Status': 'Enabled', 'Priority': 1, 'Filter': {'Prefix': 'app/'},
    'DeleteMarkerReplication': {'Status': 'Disabled'}, 'Destination': {'Bucket': 'arn:aws:s3:::' + other}}
s3.put_bucket_replication(Bucket=bucket, ReplicationConfiguration={
    'Role': 'arn:aws:iam::123456789012:role/r', 'Rules': [rule]})
";
    let findings = bucket(REPLICATED).await.diagnose().await;
    assert_eq!(found(&findings, "replication").level, Level::Unfit, "{findings:?}");
}
