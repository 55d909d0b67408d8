//! Servers that send nonsense.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
};

use lock_core::{ErrorKind, backend::Backend};
use lock_postgres::{PostgresConfig, ServerConfig, SslMode};

use crate::fixture::{LONG, backend, client, in_test_database, request};

/// A server that refuses TLS and answers the login with `reply`.
fn server(reply: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer);
            let _ = stream.write_all(b"N");
            let _ = stream.read(&mut buffer);
            let _ = stream.write_all(reply);
        }
    });
    addr
}

/// An error message of a server with this SQLSTATE and text.
const RED: &[u8] = b"E\x00\x00\x00\x23SFATAL\0CXX000\0M\x1b[31mred\x1b[0m\x07\0\0\0\0\0";

#[tokio::test]
// verifies: hostile-answers
async fn a_hostile_server_costs_one_line_of_the_right_kind() {
    for (reply, kinds) in [
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n<html>\r\nno\r\n</html>".as_slice(),
            &[ErrorKind::Config, ErrorKind::Unavailable],
        ),
        (b"".as_slice(), &[ErrorKind::Unavailable, ErrorKind::Timeout]),
        (b"Z\x00\x00\x00\x05I".as_slice(), &[ErrorKind::Config, ErrorKind::Unavailable]),
        (RED, &[ErrorKind::Other, ErrorKind::Config]),
    ] {
        let error = client(server(reply)).acquire(&request("job", LONG)).await.unwrap_err();
        let line = format!("{error:?}");
        assert!(kinds.contains(&error.kind()) && !error.is_ambiguous(), "{line} for {reply:?}");
        assert!(!line.contains(char::is_control) && line.chars().count() < 600, "{line:?}");
    }
}

#[tokio::test]
// verifies: hostile-answers
async fn error_chains_do_not_repeat_themselves() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = client(closed).acquire(&request("job", LONG)).await.unwrap_err();
    assert_eq!(format!("{error:?}").matches("os error").count(), 1, "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
// verifies: hostile-answers
async fn a_connection_cut_during_the_handshake_is_retried() {
    for answer in [b"S".as_slice(), b"S\x16\x03\x03\x00\x7a"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 8]);
                let _ = stream.write_all(answer);
            }
        });
        let server = ServerConfig::new().host("127.0.0.1", port).ssl_mode(SslMode::Require);
        let backend = backend(PostgresConfig::new(in_test_database(server)));
        let error = backend.acquire(&request("job", LONG)).await.unwrap_err();
        let found = (error.kind(), error.is_retryable(), error.is_ambiguous());
        assert_eq!(found, (ErrorKind::Unavailable, true, false), "{error:?}");
    }
}
