//! Tests on fake-gcs-server, which ignores the preconditions of uploads.

use std::time::Duration;

use lock_core::{
    ErrorKind,
    backend::{Backend, Level},
};
use lock_object::{ObjectBackend, ObjectConfig};
use test_support::{http, object_stores::ObjectStoreServer, wire::Wire};

use crate::fixture::{name, request};

const TTL: Duration = Duration::from_secs(60);

/// Turns an upload of the XML API, which this server has not, into one of its JSON API.
fn to_json_api(head: &str) -> String {
    let Some(rest) = head.strip_prefix("PUT /locks/") else { return head.to_owned() };
    let (key, rest) = rest.split_once(' ').expect("a request has a version");
    let header = rest.lines().find_map(|line| line.split_once("x-goog-if-generation-match:"));
    let (_, generation) = header.expect("each upload has a condition");
    let name = key.replace('/', "%2F");
    format!(
        "POST /upload/storage/v1/b/locks/o?uploadType=media&name={name}&ifGenerationMatch={} {rest}",
        generation.trim()
    )
}

/// Adds what the XML API says of a missing object and of the new version.
fn to_xml_api(head: &str) -> String {
    let lower = head.to_ascii_lowercase();
    if lower.starts_with("http/1.1 404") {
        return format!("{head}\r\nx-ms-error-code: NoSuchKey");
    }
    if lower.contains("x-goog-generation:") { head.to_owned() } else { format!("{head}\r\nx-goog-generation: 7") }
}

async fn server() -> &'static ObjectStoreServer {
    let start = || {
        let server = ObjectStoreServer::fake_gcs();
        let json = [("Content-Type", "application/json")];
        let made = http::send(server.address(), "POST", "/storage/v1/b", &json, br#"{"name":"locks"}"#).unwrap();
        assert!(matches!(made.status, 200 | 409), "{}", made.head);
        server
    };
    tokio::task::spawn_blocking(start).await.unwrap()
}

fn backend(endpoint: String, prefix: &str) -> ObjectBackend {
    ObjectBackend::new(ObjectConfig::gcs("locks").prefix(prefix).endpoint(endpoint).anonymous(true)).unwrap()
}

#[tokio::test]
// verifies: P1
async fn fake_gcs_is_refused_because_it_ignores_conditions() {
    let server = server().await;
    let wire = Wire::start(server.address());
    wire.edit_requests(to_json_api);
    wire.edit_replies(to_xml_api);
    let prefix = lock_core::backend::LeaseId::random().to_string();
    let backend = backend(wire.endpoint(), &prefix);
    let findings = backend.diagnose().await;
    let conditions = findings.iter().find(|finding| finding.subject == "conditional writes").expect("it is checked");
    assert_eq!(conditions.level, Level::Unfit, "{findings:?}");
    let error = backend.acquire(&request(&name("a"), TTL)).await.expect_err("such a store grants no lock");
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    let message = error.to_string();
    assert!(
        message.contains("this store ignores conditions") && message.contains("PUT with If-None-Match"),
        "{message}"
    );
    let written = http::send(server.address(), "GET", &format!("/locks/{prefix}/a.lock"), &[], b"").unwrap();
    assert_eq!(written.status, 404, "no lock was written");
}

#[tokio::test]
async fn fake_gcs_without_the_xml_api_is_refused() {
    let backend = backend(server().await.endpoint(), "plain");
    let error = backend.acquire(&request(&name("a"), TTL)).await.expect_err("it has no XML API");
    assert!(error.kind() == ErrorKind::Config && error.to_string().contains("not an object store"), "{error}");
}
