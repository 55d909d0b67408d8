//! A part of a bucket for each test, on one of the real servers.

use std::{net::SocketAddr, time::Duration};

use http::{Method, Request};
use lock_core::{
    LockName,
    backend::{AcquireOutcome, AcquireRequest, Backend, Lease, LeaseId},
};
use lock_object::{ObjectBackend, ObjectConfig};
use object_store::{
    azure::{AzureAccessKey, AzureAuthorizer, AzureCredential},
    client::{HttpRequest, HttpRequestBody},
};
use test_support::{
    http::{self as raw, Reply},
    object_stores::{AZURITE_ACCOUNT, AZURITE_KEY, ObjectStoreServer},
};

use crate::gcs_server::GcsServer;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    SeaweedFs,
    Moto,
    Azurite,
    Gcs,
}

const BUCKET: &str = "locks";

/// A prefix that no other test uses.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) address: SocketAddr,
    /// The server of a test on Google's storage.
    pub(crate) gcs: Option<GcsServer>,
    kind: Kind,
    pub(crate) prefix: String,
}

impl Bucket {
    pub(crate) async fn new(kind: Kind) -> Self {
        let start = move || {
            let gcs = (kind == Kind::Gcs).then(GcsServer::start);
            let address = match (kind, &gcs) {
                (_, Some(gcs)) => gcs.address(),
                (Kind::SeaweedFs, _) => ObjectStoreServer::seaweedfs().address(),
                (Kind::Azurite, _) => ObjectStoreServer::azurite().address(),
                _ => ObjectStoreServer::moto().address(),
            };
            let bucket = Self { address, gcs, kind, prefix: LeaseId::random().to_string() };
            match kind {
                Kind::SeaweedFs => ObjectStoreServer::seaweedfs().create_bucket(BUCKET),
                Kind::Moto => ObjectStoreServer::moto().create_bucket(BUCKET),
                Kind::Azurite => {
                    let reply = bucket.send(Method::PUT, "?restype=container", &[], b"");
                    assert!(matches!(reply.status, 201 | 409), "{}", reply.head);
                }
                Kind::Gcs => {}
            }
            bucket
        };
        tokio::task::spawn_blocking(start).await.expect("the server starts")
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A configuration for this prefix. One machine's clocks do not differ.
    pub(crate) fn config(&self) -> ObjectConfig {
        self.config_at(&self.endpoint())
    }

    /// The same through a proxy at `endpoint`.
    pub(crate) fn config_at(&self, endpoint: &str) -> ObjectConfig {
        let config = match self.kind {
            Kind::SeaweedFs => ObjectConfig::s3(BUCKET).endpoint(endpoint).anonymous(true),
            Kind::Moto => ObjectConfig::s3(BUCKET).endpoint(endpoint).access_key("test", "test", None),
            Kind::Gcs => ObjectConfig::gcs(BUCKET).endpoint(endpoint).anonymous(true),
            Kind::Azurite => ObjectConfig::azure(AZURITE_ACCOUNT, BUCKET)
                .endpoint(format!("{endpoint}/{AZURITE_ACCOUNT}"))
                .account_key(AZURITE_KEY),
        };
        config
            .region("us-east-1")
            .prefix(&self.prefix)
            .skew(Duration::ZERO)
            .poll(Duration::from_millis(50), Duration::from_millis(500))
            .least_ttl(Duration::ZERO)
    }

    pub(crate) fn backend(&self) -> ObjectBackend {
        ObjectBackend::new(self.config()).expect("a good configuration")
    }

    /// Writes the object of a lock as any program could.
    pub(crate) fn put(&self, name: &LockName, body: &str) {
        let reply = self.send(Method::PUT, &self.path(name), &[("x-ms-blob-type", "BlockBlob")], body.as_bytes());
        assert!(matches!(reply.status, 200 | 201), "{}", reply.head);
    }

    pub(crate) fn delete(&self, name: &LockName) {
        let reply = self.send(Method::DELETE, &self.path(name), &[], b"");
        assert!(matches!(reply.status, 200 | 202 | 204 | 404), "{}", reply.head);
    }

    pub(crate) fn get(&self, name: &LockName) -> Reply {
        self.send(Method::GET, &self.path(name), &[], b"")
    }

    /// The path below the bucket. The names of tests have no other characters to escape.
    fn path(&self, name: &LockName) -> String {
        format!("/{}/{}.lock", self.prefix, name.as_str().replace('/', "%252F"))
    }

    pub(crate) fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let account = if self.kind == Kind::Azurite { format!("/{AZURITE_ACCOUNT}") } else { String::new() };
        let url = format!("{}{account}/{BUCKET}{path}", self.endpoint());
        let mut request = Request::builder().method(method).uri(url).header("content-length", body.len());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(HttpRequestBody::empty()).expect("a good request");
        self.sign(&mut request);
        let headers: Vec<_> = request.headers().iter().filter(|(name, _)| *name != "content-length").collect();
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
        let target = request.uri().path_and_query().expect("a path").as_str();
        raw::send(self.address, request.method().as_str(), target, &headers, body).expect("it answers")
    }

    fn sign(&self, request: &mut HttpRequest) {
        match self.kind {
            Kind::SeaweedFs | Kind::Gcs => {}
            Kind::Moto => {
                let unchecked = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, \
                                 SignedHeaders=host, Signature=none";
                request.headers_mut().insert("authorization", unchecked.parse().expect("a good header"));
            }
            Kind::Azurite => {
                let key = AzureAccessKey::try_new(AZURITE_KEY).expect("a good key");
                let credential = AzureCredential::AccessKey(key);
                AzureAuthorizer::new(&credential, AZURITE_ACCOUNT).try_authorize(request).expect("it can be signed");
            }
        }
    }
}

pub(crate) fn name(text: &str) -> LockName {
    LockName::new(text).expect("a good name")
}

pub(crate) fn request(name: &LockName, ttl: Duration) -> AcquireRequest {
    AcquireRequest::new(name.clone(), LeaseId::random(), "test").with_ttl(ttl)
}

pub(crate) async fn granted(client: &dyn Backend, request: &AcquireRequest) -> Lease {
    match client.acquire(request).await.expect("the store answers") {
        AcquireOutcome::Granted(grant) => request.lease(grant.token),
        AcquireOutcome::Contended(holder) => panic!("{} is held by {holder}", request.name),
    }
}

/// A record that another client wrote, which holds the lock for ten minutes.
pub(crate) fn foreign_record(name: &LockName) -> String {
    let id = LeaseId::random();
    let held = r#""owner":"other","token":8000000000000000,"ttl_ms":600000,"nonce":"n""#;
    format!(r#"{{"onelock":1,"name":"{name}","id":"{id}",{held}}}"#)
}
