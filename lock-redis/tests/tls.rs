//! TLS with an authority of one's own and a client certificate: the conformance cases, and what goes wrong.

use std::sync::{Arc, OnceLock};

use integration::{free_port, redis::RedisServer, tls::Certificates};
use lock_core::{ErrorKind, backend::Backend, testing::Subject};
use lock_redis::{Address, RedisBackend, RedisConfig};

static SERVER: OnceLock<(RedisServer, Certificates, u16)> = OnceLock::new();

fn server() -> &'static (RedisServer, Certificates, u16) {
    SERVER.get_or_init(|| {
        let (certificates, port) = (Certificates::make(), free_port());
        let ((cert, key), ca, port_text) = (certificates.server(), certificates.ca(), port.to_string());
        let args = ["--tls-cert-file", cert.to_str().unwrap(), "--tls-key-file", key.to_str().unwrap()];
        let args = [&args[..], &["--tls-ca-cert-file", ca.to_str().unwrap(), "--tls-port", &port_text]].concat();
        (RedisServer::with_args(&args), certificates, port)
    })
}

fn config(host: &str) -> RedisConfig {
    RedisConfig::standalone(Address::tcp(host, server().2))
}

fn with_certificates(host: &str) -> RedisConfig {
    let (cert, key) = server().1.client();
    config(host).ca_file(server().1.ca()).client_certificate(cert, key)
}

async fn kind(config: RedisConfig) -> (ErrorKind, bool) {
    let error = RedisBackend::new(config).unwrap().list("").await.unwrap_err();
    println!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
    (error.kind(), error.is_ambiguous())
}

struct Tls;

#[async_trait::async_trait]
impl Subject for Tls {
    async fn client(&self) -> Arc<dyn Backend> {
        Arc::new(RedisBackend::new(with_certificates("localhost")).unwrap())
    }
}

lock_core::conformance! {
    #[tokio::test]
    Tls,
    except = [(a_descriptor_keeps_the_lock_held, "the lock does not live in a descriptor")]
}

#[tokio::test]
async fn an_authority_that_is_not_trusted_is_refused() {
    let (cert, key) = server().1.client();
    assert_eq!(kind(config("localhost").client_certificate(cert, key)).await, (ErrorKind::Config, false));
}

#[tokio::test]
async fn a_missing_client_certificate_is_an_error_of_the_configuration() {
    assert_eq!(kind(config("localhost").ca_file(server().1.ca())).await, (ErrorKind::Config, false));
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused() {
    assert_eq!(kind(with_certificates("127.0.0.1")).await, (ErrorKind::Config, false));
}

#[tokio::test]
async fn speaking_plainly_to_a_tls_port_is_an_error() {
    let (kind, ambiguous) = kind(config("localhost")).await;
    assert!(!ambiguous && kind != ErrorKind::Timeout, "{kind:?}");
}

#[test]
fn a_certificate_that_cannot_be_read_is_named() {
    let error = RedisBackend::new(config("localhost").ca_file("/nonexistent/ca.pem")).unwrap_err();
    assert!(error.kind() == ErrorKind::Config && error.to_string().contains("/nonexistent/ca.pem"), "{error}");
}
