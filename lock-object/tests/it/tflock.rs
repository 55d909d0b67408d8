//! Tests that Terraform's lock files and ours exclude each other.

use std::{process::Command, time::Duration};

use http::Method;
use lock_core::{
    ErrorKind,
    backend::{AcquireOutcome, AcquireRequest, Backend, Break, LeaseId, Release, Renewal},
};
use lock_object::{ObjectConfig, TflockBackend};
use serde_json::{Value, json};
use test_support::{
    python::python,
    until,
    wire::{Fault, Wire},
};

use crate::fixture::{Bucket, Kind, granted, name, request};

const STATE: &str = "prod/terraform.tfstate";
const TTL: Duration = Duration::from_secs(30);
const ID: &str = "6ecf8a1d-94c5-0f62-2b0c-0ab2d1e1a7ce";

/// What Terraform 1.10 writes.
fn terraform() -> String {
    json!({
        "ID": ID,
        "Operation": "OperationTypeApply",
        "Info": "",
        "Who": "ann@laptop",
        "Version": "1.10.5",
        "Created": "2026-11-01T10:00:00.123456Z",
        "Path": format!("locks/{STATE}"),
    })
    .to_string()
}

struct Place(Bucket);

impl Place {
    async fn new() -> Self {
        Self(Bucket::new(Kind::SeaweedFs).await)
    }

    fn backend(&self) -> TflockBackend {
        TflockBackend::new(self.0.config()).unwrap()
    }

    fn path(&self) -> String {
        format!("/{}/{STATE}.tflock", self.0.prefix)
    }

    /// Locks as Terraform does; returns the status.
    fn terraform_locks(&self) -> u16 {
        self.0.send(Method::PUT, &self.path(), &[("if-none-match", "*")], terraform().as_bytes()).status
    }

    fn terraform_unlocks(&self) {
        self.0.send(Method::DELETE, &self.path(), &[], b"");
    }

    fn file(&self) -> Option<Value> {
        let reply = self.0.send(Method::GET, &self.path(), &[], b"");
        (reply.status == 200).then(|| serde_json::from_slice(&reply.body).expect("it is JSON"))
    }
}

#[tokio::test]
// verifies: foreign-client
async fn a_lock_of_terraform_excludes_ours() {
    let place = Place::new().await;
    let backend = place.backend();
    assert_eq!(place.terraform_locks(), 200);
    let AcquireOutcome::Contended(holder) = backend.acquire(&request(&name(STATE), TTL)).await.unwrap() else {
        panic!("two hold the state")
    };
    assert_eq!(holder.owner.as_deref(), Some("ann@laptop"));
    assert!(holder.foreign.as_deref().is_some_and(|kind| kind.contains("OperationTypeApply")), "{holder:?}");
    let admin = backend.admin().unwrap();
    assert_eq!(admin.inspect(&name(STATE)).await.unwrap().unwrap().owner, holder.owner);
    assert_eq!(admin.list("prod/").await.unwrap().locks[0].0, name(STATE));
    assert!(matches!(admin.break_lock(&name(STATE), "another", "bob").await.unwrap(), Break::Changed(Some(_))));
    place.terraform_unlocks();
    granted(&backend, &request(&name(STATE), TTL)).await;
}

#[tokio::test]
// verifies: foreign-client
async fn our_lock_excludes_terraform_until_its_release() {
    let place = Place::new().await;
    let backend = place.backend();
    let asked = AcquireRequest::new(name(STATE), LeaseId::random(), "etl-7").with_data(b"deploy 42".to_vec());
    let lease = granted(&backend, &asked).await;
    assert_eq!(place.terraform_locks(), 412);
    let file = place.file().unwrap();
    for (field, value) in [("Operation", "onelock"), ("Who", "etl-7"), ("Info", "deploy 42")] {
        assert_eq!(file[field], value);
    }
    assert_eq!(file["Path"], format!("locks/{}/{STATE}", place.0.prefix));
    assert!(file["ID"].as_str().is_some_and(|id| id.len() == 36 && id.matches('-').count() == 4), "{file}");
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    assert_eq!(place.terraform_locks(), 200);
    // A late release leaves the lock of Terraform alone.
    assert!(matches!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(Some(_))));
    assert_eq!(place.file().unwrap()["ID"], ID);
}

#[tokio::test]
async fn a_forced_unlock_is_a_loss() {
    let place = Place::new().await;
    let backend = place.backend();
    let lease = granted(&backend, &request(&name(STATE), TTL)).await;
    place.terraform_unlocks();
    assert!(matches!(backend.renew(&lease).await.unwrap(), Renewal::Lost(_)));
    assert_eq!(place.terraform_locks(), 200);
    assert!(matches!(backend.renew(&lease).await.unwrap(), Renewal::Lost(_)));
    let admin = backend.admin().unwrap();
    assert_eq!(admin.break_lock(&name(STATE), ID, "bob").await.unwrap(), Break::Broken);
    assert_eq!(place.file(), None);
}

#[tokio::test]
// verifies: lost-reply
async fn a_lost_reply_to_the_lock_file_is_found_to_be_ours() {
    let place = Place::new().await;
    let wire = Wire::start(place.0.address);
    let backend = TflockBackend::new(place.0.config_at(&wire.endpoint())).unwrap();
    granted(&backend, &request(&name("other"), TTL)).await;
    let asked = request(&name(STATE), TTL);
    wire.next(None);
    wire.next(Fault::LoseReply);
    let answered = wire.answered();
    tokio::select! {
        _ = backend.acquire(&asked) => panic!("a lost reply is no answer"),
        () = until("the store to answer", async || wire.answered() > answered + 1) => {}
    }
    let AcquireOutcome::Granted(grant) = backend.acquire(&asked).await.unwrap() else { panic!("it is ours") };
    assert!(grant.already_ours);
    assert_eq!(backend.release(&asked.lease(None), Duration::ZERO).await.unwrap(), Release::Released);
    assert_eq!(place.file(), None);
}

#[tokio::test]
async fn contenders_for_a_state_have_one_winner() {
    let place = Place::new().await;
    let clients: Vec<_> = (0..6).map(|_| place.backend()).collect();
    let asked = clients.iter().map(async |client| client.acquire(&request(&name(STATE), TTL)).await.unwrap());
    let answers = futures_util::future::join_all(asked).await;
    let winners = answers.iter().filter(|answer| matches!(answer, AcquireOutcome::Granted(_))).count();
    assert_eq!(winners, 1, "{answers:?}");
}

#[tokio::test]
async fn names_and_files_that_are_no_states_are_refused() {
    let place = Place::new().await;
    let backend = place.backend();
    for odd in ["/a", "a//b", "../a", "a\0", &"x".repeat(1_024)] {
        let error = backend.acquire(&request(&name(odd), TTL)).await.expect_err("no state has that key");
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    }
    place.0.send(Method::PUT, &place.path(), &[], b"{}");
    let error = backend.acquire(&request(&name(STATE), TTL)).await.expect_err("it is no lock file");
    assert_eq!(error.kind(), ErrorKind::StoreNotReady, "{error}");
    assert_eq!(backend.admin().unwrap().list("").await.unwrap().odd_count(), 1);
    let error = TflockBackend::new(ObjectConfig::gcs("b")).expect_err("Terraform keeps its locks there in another way");
    assert!(error.to_string().contains("S3 only"), "{error}");
}

/// Runs Python with boto3 on the server of the bucket.
fn boto3(bucket: &Bucket, program: &str) {
    let start = format!(
        "import boto3, botocore\ns3 = boto3.client('s3', endpoint_url='{}', region_name='us-east-1', \
         aws_access_key_id='a', aws_secret_access_key='b')\n",
        bucket.endpoint()
    );
    let output = Command::new(python()).args(["-c", &(start + program)]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
// verifies: foreign-client
async fn boto3_and_ours_exclude_each_other() {
    let place = Place::new().await;
    let key = format!("{}/{STATE}.tflock", place.0.prefix);
    boto3(
        &place.0,
        &format!("s3.put_object(Bucket='locks', Key='{key}', IfNoneMatch='*', Body=b'''{}''')", terraform()),
    );
    let backend = place.backend();
    assert!(matches!(backend.acquire(&request(&name(STATE), TTL)).await.unwrap(), AcquireOutcome::Contended(_)));
    boto3(&place.0, &format!("s3.delete_object(Bucket='locks', Key='{key}')"));
    granted(&backend, &request(&name(STATE), TTL)).await;
    let refused = format!(
        "
try:
    s3.put_object(Bucket='locks', Key='{key}', IfNoneMatch='*', Body=b'x')
    raise SystemExit('two hold it')
except botocore.exceptions.ClientError as error:
    assert error.response['ResponseMetadata']['HTTPStatusCode'] == 412
"
    );
    boto3(&place.0, &refused);
}
