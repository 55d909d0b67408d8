//! Servers that are not DynamoDB or send nonsense, and questions about a table that is missing.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use lock_core::{
    Error, ErrorKind, LockName,
    backend::{Admin, Backend},
};
use lock_dynamo::{DynamoBackend, DynamoConfig, Schema};
use serde_json::json;
use test_support::wire::{Fault, Wire};

use crate::fixture::{Table, request};

const LONG: Duration = Duration::from_secs(60);

/// A server that answers each request with `reply` and closes the connection. An endless reply
/// repeats its last part until the client has gone.
fn server(reply: Vec<u8>, endless: Option<Vec<u8>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (reply, endless) = (reply.clone(), endless.clone());
            thread::spawn(move || serve(stream?, &reply, endless.as_deref()));
        }
    });
    addr
}

fn serve(mut stream: TcpStream, reply: &[u8], endless: Option<&[u8]>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    reader.read_exact(&mut vec![0; length])?;
    stream.write_all(reply)?;
    while let Some(part) = endless {
        stream.write_all(part)?;
    }
    stream.shutdown(std::net::Shutdown::Write)
}

fn client(addr: SocketAddr) -> DynamoBackend {
    let config = DynamoConfig::new("locks").endpoint(format!("http://{addr}")).region("eu-central-1");
    DynamoBackend::new(config.credentials("test", "test", None))
}

fn reply(status: u16, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Made\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

const JSON: &str = "application/x-amz-json-1.0";
const CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
const HALF: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: 100\r\n\r\nhalf";
/// The size of a part of an endless reply.
const PART: usize = 0x1_0000;

/// The errors of all operations on this server.
async fn errors(addr: SocketAddr) -> Vec<Error> {
    let backend = client(addr);
    let job = request("job", LONG);
    let lease = job.lease(None);
    vec![
        backend.acquire(&job).await.map(drop).unwrap_err(),
        backend.renew(&lease).await.map(drop).unwrap_err(),
        backend.release(&lease, Duration::ZERO).await.map(drop).unwrap_err(),
        backend.inspect(&lease.name).await.map(drop).unwrap_err(),
        backend.list("").await.map(drop).unwrap_err(),
        backend.break_lock(&lease.name, &lease.id.to_string(), "alice").await.map(drop).unwrap_err(),
    ]
}

#[tokio::test]
// verifies: hostile-answers
async fn a_hostile_server_costs_one_line_of_the_right_kind() {
    let html = "<html>\r\nno\r\n</html>";
    let part = [format!("{PART:x}\r\n").as_bytes(), &[b' '; PART], b"\r\n"].concat();
    let escapes = json!({ "__type": "x#\u{1b}[31mred", "message": "\u{1b}[2J\r\n".repeat(9_000) }).to_string();
    for (reply, endless, kind) in [
        (reply(200, "text/html", html), None, ErrorKind::Config),
        (reply(404, "text/html", html), None, ErrorKind::Config),
        // Would otherwise be a successful write.
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec(), None, ErrorKind::Config),
        (reply(200, "application/json", "{}"), None, ErrorKind::Config),
        (reply(200, JSON, "nonsense"), None, ErrorKind::Config),
        (reply(400, JSON, &escapes), None, ErrorKind::Other),
        (reply(502, "text/html", html), None, ErrorKind::Unavailable),
        (reply(200, JSON, &" ".repeat(20_000_000)), None, ErrorKind::Config),
        (CHUNKED.to_vec(), Some(part), ErrorKind::Config),
        (HALF.to_vec(), None, ErrorKind::Unavailable),
        (b"\x15\x03\x01\x00\x02\x02\x16".to_vec(), None, ErrorKind::Unavailable),
    ] {
        let text = String::from_utf8_lossy(&reply[..reply.len().min(120)]).into_owned();
        for error in errors(server(reply, endless)).await {
            let line = format!("{error:?}");
            assert_eq!(error.kind(), kind, "{line} for {text:?}");
            assert!(!line.contains(char::is_control) && line.chars().count() < 1_200, "{line:?} for {text:?}");
        }
    }
}

#[tokio::test]
// verifies: hostile-answers
async fn a_list_ends_although_the_server_repeats_a_page() {
    let page = json!({ "Items": [], "Count": 0, "LastEvaluatedKey": { "key": { "S": "a" } } });
    let wire = Wire::alone(Fault::Answer(page.to_string()));
    let error = client(wire.address()).list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert_eq!(wire.take_seen(), ["Scan"; 2]);
}

#[tokio::test]
// verifies: hostile-answers
async fn a_refused_connection_is_named_once() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for error in errors(closed).await {
        let line = format!("{error:?}");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{line}");
        assert_eq!(line.matches("os error").count(), 1, "{line}");
        assert!(line.contains(&closed.to_string()), "{line}");
    }
}

#[tokio::test]
// verifies: asking
async fn questions_about_a_missing_table_create_nothing() {
    let table = Table::new(Schema::Native).await;
    let missing = format!("{}-missing", table.name);
    let backend = DynamoBackend::new(table.config_for(&missing));
    let name = LockName::new("job").unwrap();
    for error in [backend.inspect(&name).await.map(drop), backend.list("").await.map(drop)].map(Result::unwrap_err) {
        assert_eq!(error.kind(), ErrorKind::StoreNotReady);
        assert!(error.to_string().contains(&missing), "{error}");
    }
    assert!(!backend.check().await.unwrap().problems.is_empty());
    assert!(format!("{:?}", backend.diagnose().await).contains(&missing));
    let described = table.client.describe_table().table_name(&missing).send().await;
    assert!(described.unwrap_err().as_service_error().unwrap().is_resource_not_found_exception());
}
