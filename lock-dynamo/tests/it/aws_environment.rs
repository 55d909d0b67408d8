//! Tests the AWS environment: profiles, roles, missing credentials, and TLS. Each environment runs
//! in a separate process.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use lock_core::{ErrorKind, backend::Backend as _};
use lock_dynamo::{DynamoBackend, DynamoConfig, Schema};
use test_support::{
    tls::Certificates,
    undriven::{driven, undriven},
    wire::{Fault, Wire},
};

use crate::fixture::{Table, request};

/// Of this token service, for the next quarter of a century.
const ASSUMED: &str = r#"<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
<AssumedRoleUser><AssumedRoleId>AROA:onelock</AssumedRoleId>
<Arn>arn:aws:sts::123456789012:assumed-role/locks/onelock</Arn></AssumedRoleUser><Credentials>
<AccessKeyId>ASIAOFTHEROLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey>
<SessionToken>token-of-the-role</SessionToken>
<Expiration>2051-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"#;

/// A table behind a proxy, and an empty environment.
pub(crate) struct Environment {
    pub(crate) table: Table,
    pub(crate) wire: Wire,
    home: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Environment {
    pub(crate) async fn new() -> Self {
        let table = Table::new(Schema::Native).await;
        let wire = Wire::start(table.server.address());
        let home = tempfile::tempdir().unwrap();
        let variables = vec![("AWS_EC2_METADATA_DISABLED", "true".into()), ("HOME", home.path().display().to_string())];
        Self { table, wire, home, variables }
    }

    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.variables.push((name, value.into()));
    }

    /// Writes an AWS file and names it in the environment.
    pub(crate) fn file(&mut self, variable: &'static str, content: &str) {
        let path = self.home.path().join(variable);
        fs::write(&path, content).unwrap();
        self.set(variable, path.display().to_string());
    }

    pub(crate) fn keys(&mut self, key: &str) {
        self.set("AWS_ACCESS_KEY_ID", key);
        self.set("AWS_SECRET_ACCESS_KEY", "s");
    }

    /// Tries for a lock with these options, and returns what the program said.
    pub(crate) async fn skip(&self, options: &str) -> String {
        let endpoint = format!("endpoint={}", self.wire.endpoint());
        self.skip_at(&if options.is_empty() { endpoint } else { format!("{endpoint}&{options}") }).await
    }

    pub(crate) async fn skip_at(&self, options: &str) -> String {
        let mut command = Command::new(program());
        command.arg(format!("dynamodb://{}?{options}", self.table.name)).arg("job");
        command.env_clear().envs(self.variables.iter().map(|(name, value)| (*name, value)));
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("it starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The access key and the region that the latest request was signed with.
    fn signed_by(&self) -> String {
        let authorization = self.wire.header("authorization");
        let (_, credential) = authorization.split_once("Credential=").expect("it is signed");
        let mut parts = credential.split('/');
        let (key, _date, region) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        format!("{key} in {region}")
    }
}

fn program() -> PathBuf {
    let path = std::env::current_exe().expect("a test has a path");
    let path = path.ancestors().nth(2).unwrap().join("examples/skip");
    assert!(Path::exists(&path), "{path:?} is not built: cargo build -p lock-dynamo --example skip");
    path
}

#[tokio::test]
async fn region_and_credentials_come_from_the_environment() {
    let mut env = Environment::new().await;
    env.keys("AKIAENVIRONMENT");
    env.set("AWS_REGION", "ap-south-1");
    assert_eq!(env.skip("").await, "acquired, then Released\n");
    assert_eq!(env.signed_by(), "AKIAENVIRONMENT in ap-south-1");
    // The config string takes precedence.
    assert_eq!(
        env.skip("region=sa-east-1&access_key_id=AKIACONFIG&secret_access_key=s").await,
        "acquired, then Released\n"
    );
    assert_eq!(env.signed_by(), "AKIACONFIG in sa-east-1");
}

#[tokio::test]
async fn endpoint_comes_from_the_environment_or_the_profile() {
    let mut env = Environment::new().await;
    env.keys("AKIAENVIRONMENT");
    let profile = format!("[profile local]\nregion = eu-west-3\nendpoint_url = {}\n", env.wire.endpoint());
    env.file("AWS_CONFIG_FILE", &profile);
    assert_eq!(env.skip_at("profile=local").await, "acquired, then Released\n");
    assert_eq!(env.wire.take_seen(), ["UpdateItem"; 2]);
    // The variable takes precedence over the profile.
    let variable = Wire::start(env.table.server.address());
    env.set("AWS_ENDPOINT_URL_DYNAMODB", variable.endpoint());
    assert_eq!(env.skip_at("profile=local").await, "acquired, then Released\n");
    assert_eq!(variable.take_seen(), ["UpdateItem"; 2]);
    assert_eq!(env.wire.take_seen(), [""; 0], "no request goes to the endpoint of the profile");
    // The config string takes precedence over both.
    assert_eq!(env.skip("profile=local").await, "acquired, then Released\n");
    assert_eq!(env.wire.take_seen(), ["UpdateItem"; 2]);
    assert_eq!(variable.take_seen(), [""; 0], "no request goes to the endpoint of the variable");
}

#[tokio::test]
async fn a_profile_brings_its_region_and_credentials() {
    let mut env = Environment::new().await;
    env.file("AWS_CONFIG_FILE", "[default]\nregion = us-west-1\n[profile ops]\nregion = eu-west-3\n");
    env.file(
        "AWS_SHARED_CREDENTIALS_FILE",
        "[default]\naws_access_key_id = AKIADEFAULT\naws_secret_access_key = s\n[ops]\naws_access_key_id = \
         AKIAOPS\naws_secret_access_key = s\n",
    );
    assert_eq!(env.skip("").await, "acquired, then Released\n");
    assert_eq!(env.signed_by(), "AKIADEFAULT in us-west-1");
    assert_eq!(env.skip("profile=ops").await, "acquired, then Released\n");
    assert_eq!(env.signed_by(), "AKIAOPS in eu-west-3");
    env.set("AWS_PROFILE", "ops");
    assert_eq!(env.skip("").await, "acquired, then Released\n");
    assert_eq!(env.signed_by(), "AKIAOPS in eu-west-3");
}

#[tokio::test]
async fn role_is_assumed_at_the_token_service() {
    let mut env = Environment::new().await;
    let tokens = Wire::alone(Fault::Answer(ASSUMED.into()));
    env.keys("AKIAENVIRONMENT");
    env.set("AWS_ENDPOINT_URL_STS", tokens.endpoint());
    let said = env.skip("region=eu-central-1&role=arn:aws:iam::123456789012:role/locks").await;
    assert_eq!(said, "acquired, then Released\n");
    assert!(tokens.header("authorization").contains("Credential=AKIAENVIRONMENT/"));
    assert_eq!(tokens.take_seen().len(), 1, "for both requests");
    assert_eq!(env.signed_by(), "ASIAOFTHEROLE in eu-central-1");
    assert_eq!(env.wire.header("x-amz-security-token"), "token-of-the-role");
}

#[tokio::test]
async fn a_profile_may_assume_a_role_by_another() {
    let mut env = Environment::new().await;
    let tokens = Wire::alone(Fault::Answer(ASSUMED.into()));
    env.set("AWS_ENDPOINT_URL_STS", tokens.endpoint());
    env.file(
        "AWS_CONFIG_FILE",
        "[profile etl]\nregion = eu-west-3\nrole_arn = arn:aws:iam::123456789012:role/locks\nsource_profile = base\n",
    );
    env.file("AWS_SHARED_CREDENTIALS_FILE", "[base]\naws_access_key_id = AKIABASE\naws_secret_access_key = s\n");
    assert_eq!(env.skip("profile=etl").await, "acquired, then Released\n");
    assert!(tokens.header("authorization").contains("Credential=AKIABASE/"));
    assert_eq!(env.signed_by(), "ASIAOFTHEROLE in eu-west-3");
}

#[tokio::test]
async fn missing_settings_are_named() {
    let mut env = Environment::new().await;
    let said = env.skip("region=eu-central-1").await;
    assert!(
        said.starts_with("PermissionDenied error: ") && said.contains("no usable AWS credentials; set AWS_PROFILE"),
        "{said}"
    );
    let said = env.skip_at("takeover=observed").await;
    assert!(said.starts_with("Config error: ") && said.contains("no AWS region; add region=…"), "{said}");
    let said = env.skip("region=eu-central-1&profile=missing").await;
    assert!(said.starts_with("PermissionDenied error: ") && said.contains("no usable AWS credentials"), "{said}");
    // The token service reports expired credentials.
    let tokens = Wire::alone(Fault::Refuse(403, "ExpiredTokenException"));
    env.keys("ASIAOFYESTERDAY");
    env.set("AWS_ENDPOINT_URL_STS", tokens.endpoint());
    let said = env.skip("region=eu-central-1&role=arn:aws:iam::123456789012:role/locks").await;
    assert!(said.starts_with("PermissionDenied error: ") && said.contains("no usable AWS credentials"), "{said}");
    assert_eq!(env.wire.take_seen(), [""; 0], "no request is sent without credentials");
}

#[tokio::test]
async fn a_machine_without_certificate_authorities_is_told_so() {
    let mut env = Environment::new().await;
    let certificates = Certificates::make();
    let wire = Wire::start_tls(env.table.server.address(), &certificates);
    env.keys("AKIAENVIRONMENT");
    let nothing = env.home.path().join("nothing").display().to_string();
    env.set("SSL_CERT_FILE", nothing.clone());
    env.set("SSL_CERT_DIR", nothing);
    let options = format!("region=eu-central-1&endpoint=https://localhost:{}", wire.address().port());
    let said = env.skip_at(&options).await;
    let advice = "this machine has no certificate authorities, so TLS cannot verify a server; install the package";
    assert!(said.starts_with("Config error: ") && said.contains(advice), "{said}");
    assert!(!said.contains("because: "), "{said}");
    // The token service is not asked either.
    let said = env.skip_at(&format!("{options}&role=arn:aws:iam::123456789012:role/locks")).await;
    assert!(said.starts_with("Config error: ") && said.contains(advice), "{said}");
    // Without TLS, none are needed.
    assert_eq!(env.skip("region=eu-central-1").await, "acquired, then Released\n");
    env.set("AWS_CA_BUNDLE", certificates.ca().display().to_string());
    assert_eq!(env.skip_at(&options).await, "acquired, then Released\n");
}

#[tokio::test]
async fn server_certificate_is_verified_over_tls() {
    let mut env = Environment::new().await;
    let certificates = Certificates::make();
    let wire = Wire::start_tls(env.table.server.address(), &certificates);
    env.keys("AKIAENVIRONMENT");
    let options = format!("region=eu-central-1&endpoint=https://localhost:{}", wire.address().port());
    let said = env.skip_at(&options).await;
    assert!(said.starts_with("Unavailable error: ") && said.contains("UnknownIssuer"), "{said}");
    assert_eq!(wire.take_seen(), [""; 0], "no request is sent to a server with an unknown issuer");
    env.set("SSL_CERT_FILE", certificates.ca().display().to_string());
    assert_eq!(env.skip_at(&options).await, "acquired, then Released\n");
    assert_eq!(wire.take_seen(), ["UpdateItem"; 2]);
    // The certificate is for another name.
    let said = env.skip_at(&options.replace("localhost", "127.0.0.1")).await;
    assert!(said.starts_with("Unavailable error: "), "{said}");
}

#[tokio::test]
async fn a_search_for_the_region_that_is_not_driven_stops_no_other() {
    const TTL: Duration = Duration::from_secs(60);
    const METADATA: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
    if std::env::var_os(METADATA).is_none() {
        // Again in an environment where the region is asked for, and nothing answers.
        let mut command = Command::new(std::env::current_exe().expect("a test has a path"));
        let test = "a_search_for_the_region_that_is_not_driven_stops_no_other";
        command.args([&format!("aws_environment::{test}"), "--exact", "--nocapture"]);
        command.env_clear().env(METADATA, "http://127.0.0.1:1");
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("it starts");
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
        return;
    }
    let backend = DynamoBackend::new(DynamoConfig::new("locks"));
    let (first, second) = (request("first", TTL), request("second", TTL));
    let _stuck = undriven(backend.acquire(&first));
    let error = driven(backend.acquire(&second)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}
