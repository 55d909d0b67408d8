//! Tests proxies and certificate authorities from the environment. Each environment runs in a
//! separate process.

use test_support::{http_proxy::HttpProxy, tls::Certificates, wire::Wire};

use crate::aws_environment::Environment;

const ACQUIRED: &str = "acquired, then Released\n";

/// An environment, a TLS server in front of its table, and the options to reach it.
async fn behind_tls() -> (Environment, Wire, Certificates, String) {
    let mut env = Environment::new().await;
    let certificates = Certificates::make();
    let wire = Wire::start_tls(env.table.server.address(), &certificates);
    env.keys("AKIAENVIRONMENT");
    let options = format!("region=eu-central-1&endpoint=https://localhost:{}", wire.address().port());
    (env, wire, certificates, options)
}

#[tokio::test]
// verifies: proxies
async fn https_requests_are_tunnelled_through_the_proxy() {
    for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
        let (mut env, wire, certificates, options) = behind_tls().await;
        // user:s3cr:t
        let proxy = HttpProxy::start(Some("Basic dXNlcjpzM2NyOnQ="));
        env.set("AWS_CA_BUNDLE", certificates.ca().display().to_string());
        env.set(variable, format!("http://user:s3cr%3At@{}", proxy.address()));
        assert_eq!(env.skip_at(&options).await, ACQUIRED, "{variable}");
        assert_eq!(proxy.take_seen(), [format!("CONNECT localhost:{}", wire.address().port())], "{variable}");
        assert_eq!(wire.take_seen(), ["UpdateItem"; 2], "{variable}");
        let exception = if variable == "https_proxy" { "no_proxy" } else { "NO_PROXY" };
        env.set(exception, "169.254.169.254,localhost");
        assert_eq!(env.skip_at(&options).await, ACQUIRED, "{exception}");
        assert_eq!(proxy.take_seen(), [""; 0], "{exception}");
    }
}

#[tokio::test]
// verifies: proxies
async fn http_requests_go_through_the_proxy_for_http() {
    for variable in ["HTTP_PROXY", "http_proxy"] {
        let mut env = Environment::new().await;
        let proxy = HttpProxy::start(None);
        env.keys("AKIAENVIRONMENT");
        env.set("HTTPS_PROXY", "http://127.0.0.1:9");
        env.set(variable, proxy.address().to_string());
        assert_eq!(env.skip("region=eu-central-1").await, ACQUIRED, "{variable}");
        assert_eq!(proxy.take_seen(), [format!("POST {}/", env.wire.endpoint())], "{variable}");
    }
}

#[tokio::test]
// verifies: proxies
async fn a_refusing_proxy_is_named_without_its_password() {
    let (mut env, wire, _certificates, options) = behind_tls().await;
    let proxy = HttpProxy::start(Some("Basic other"));
    let url = format!("http://user:s3cret@{}", proxy.address());
    env.set("HTTPS_PROXY", url.clone());
    env.set("HTTP_PROXY", url);
    for (said, kind) in [
        (env.skip_at(&options).await, "Unavailable error: "),
        (env.skip("region=eu-central-1").await, "Config error: "),
    ] {
        assert!(said.starts_with(kind) && said.contains("proxy"), "{said}");
        assert!(!said.contains("s3cret") && !said.contains("user:"), "{said}");
    }
    assert_eq!((wire.take_seen().len(), env.wire.take_seen().len()), (0, 0));
}

#[tokio::test]
// verifies: proxies
async fn ca_bundle_replaces_the_authorities_of_the_system() {
    let (mut env, wire, certificates, options) = behind_tls().await;
    env.set("SSL_CERT_FILE", certificates.ca().display().to_string());
    env.set("AWS_CA_BUNDLE", "");
    assert_eq!(env.skip_at(&options).await, ACQUIRED, "an empty value is none");
    env.set("AWS_CA_BUNDLE", Certificates::make().self_signed(true).0.display().to_string());
    wire.take_seen();
    let said = env.skip_at(&options).await;
    assert!(said.starts_with("Config error: ") || said.starts_with("Unavailable error: "), "{said}");
    assert_eq!(wire.take_seen(), [""; 0], "the authority is not in the bundle");
    env.set("AWS_CA_BUNDLE", certificates.ca().display().to_string());
    assert_eq!(env.skip_at(&options).await, ACQUIRED);
}

#[tokio::test]
// verifies: proxies
async fn an_unusable_ca_bundle_is_named_before_any_request() {
    let (mut env, wire, _certificates, options) = behind_tls().await;
    for content in ["", "no certificate\n", "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n"] {
        env.file("AWS_CA_BUNDLE", content);
        let said = env.skip_at(&options).await;
        assert!(said.starts_with("Config error: ") && said.contains("AWS_CA_BUNDLE"), "{said} for {content:?}");
    }
    env.set("AWS_CA_BUNDLE", "/no/such/file");
    let said = env.skip_at(&options).await;
    assert!(said.contains("AWS_CA_BUNDLE, \"/no/such/file\", cannot be read"), "{said}");
    assert_eq!(wire.take_seen(), [""; 0]);
}
