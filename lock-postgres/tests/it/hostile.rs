//! Servers that send nonsense.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
};

use lock_core::{ErrorKind, backend::Backend};

use crate::fixture::{LONG, client, request};

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
