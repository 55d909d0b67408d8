//! Servers that send nonsense, and foreign keys in the place of a lock.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use lock_core::{
    ErrorKind,
    backend::{Admin, Backend, Break, Release, Renewal},
};
use test_support::{Direction, Proxy, redis::RedisServer};

use crate::fixture::{LONG, client, granted, name, refused, request};

/// A server that logs clients in and answers each script with `reply`, or everything with `reply`.
fn server(reply: &'static [u8], logs_in: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve(stream?, reply, logs_in));
        }
    });
    addr
}

fn serve(mut stream: TcpStream, reply: &[u8], logs_in: bool) -> std::io::Result<()> {
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        while let Some((command, rest)) = command(&received) {
            let answer: &[u8] = match command.as_str() {
                "HELLO" if logs_in => b"%1\r\n+proto\r\n:3\r\n",
                "CLIENT" if logs_in => b"+OK\r\n",
                _ => reply,
            };
            received = rest;
            stream.write_all(answer)?;
            if answer == reply && reply != ENDLESS {
                // Such as an HTTP server, or a server that ends in the middle of a reply.
                return stream.shutdown(std::net::Shutdown::Write);
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => received.extend_from_slice(&buffer[..length]),
        }
    }
}

/// The name of the first command in `bytes`, and what follows it.
fn command(bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    let line = |from: usize| {
        let end = from + bytes.get(from..)?.windows(2).position(|pair| pair == b"\r\n")?;
        Some((std::str::from_utf8(&bytes[from + 1..end]).ok()?.parse::<usize>().ok()?, end + 2))
    };
    let (number, mut at) = line(0)?;
    let mut words = Vec::new();
    for _ in 0..number {
        let (length, start) = line(at)?;
        words.push(String::from_utf8_lossy(bytes.get(start..start + length)?).into_owned());
        at = start + length + 2;
    }
    Some((words.swap_remove(0), bytes.get(at..)?.to_vec()))
}

const HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html>\r\nno\r\n</html>\r\n";

/// A reply to SCAN that names a next cursor.
const ENDLESS: &[u8] = b"*2\r\n$1\r\n7\r\n*0\r\n";

#[tokio::test]
// verifies: hostile-answers
async fn a_list_ends_although_the_server_repeats_a_cursor() {
    let error = client(server(ENDLESS, true)).list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
}

#[tokio::test]
// verifies: hostile-answers
async fn a_hostile_server_costs_one_line_of_the_right_kind() {
    for (reply, logs_in, kind, ambiguous) in [
        (HTTP, false, ErrorKind::Config, false),
        (b"\x15\x03\x01\x00\x02\x02\x16".as_slice(), false, ErrorKind::Config, false),
        (HTTP, true, ErrorKind::Unavailable, true),
        (b"$100\r\nhalf a reply", true, ErrorKind::Unavailable, true),
        (b"-ERR \x1b[31mred\x1b[0m\x07\r\n", true, ErrorKind::Other, true),
        (b"+\x1b[2Jcleared\r\n", true, ErrorKind::Corrupt, true),
        (b":7\r\n", true, ErrorKind::Corrupt, true),
        (b"*3\r\n:0\r\n$-1\r\n:1\r\n", true, ErrorKind::Corrupt, true),
    ] {
        let backend = client(server(reply, logs_in));
        let error = backend.acquire(&request("job", LONG)).await.unwrap_err();
        let (line, text) = (format!("{error:?}"), String::from_utf8_lossy(reply));
        assert_eq!((error.kind(), error.is_ambiguous()), (kind, ambiguous), "{line} for {text:?}");
        assert!(!line.contains(char::is_control) && line.chars().count() < 600, "{line:?} for {text:?}");
    }
}

#[tokio::test]
// verifies: hostile-answers
async fn error_chains_do_not_repeat_themselves() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = client(closed).inspect(&name("job")).await.unwrap_err();
    assert_eq!(format!("{error:?}").matches("os error").count(), 1, "{error:?}");
}

#[tokio::test]
// verifies: hostile-answers
async fn a_huge_foreign_value_stays_on_the_server() {
    let server = RedisServer::start();
    server.command(&["SETRANGE", "onelock:{job}", "3000000", "x"]);
    let proxy = Proxy::start(server.addr()).await;
    let backend = client(proxy.addr());
    assert!(refused(&backend, &request("job", LONG)).await.foreign.is_some());
    assert_eq!(backend.list("").await.unwrap().locks.len(), 1);
    let read = proxy.bytes(Direction::Replies);
    assert!(read < 10_000, "{read} bytes");
}

#[tokio::test]
// verifies: not-ours, odd-entries
async fn a_foreign_key_is_neither_free_nor_changed_and_hides_no_lock() {
    const KEY: &str = "onelock:{job}";
    for make in [
        &["SET", KEY, "text"][..],
        &["SET", KEY, ""],
        &["SETRANGE", KEY, "3000000", "x"],
        &["RPUSH", KEY, "a"],
        &["HSET", KEY, "a", "b"],
        &["SADD", KEY, "a"],
        &["ZADD", KEY, "1", "a"],
        &["XADD", KEY, "*", "a", "b"],
    ] {
        let server = RedisServer::start();
        let backend = client(server.addr());
        let (mine, _) = granted(&backend, &request("mine", LONG)).await;
        server.command(make);
        let dump = || server.command(&["DUMP", KEY]);
        let before = dump();
        let job = request("job", LONG);
        assert!(refused(&backend, &job).await.foreign.is_some(), "{make:?}");
        let lease = job.lease(None);
        assert!(matches!(backend.renew(&lease).await.unwrap(), Renewal::Lost(_)), "{make:?}");
        assert!(matches!(backend.release(&lease, LONG).await.unwrap(), Release::NotHeld(Some(_))), "{make:?}");
        let broken = backend.break_lock(&lease.name, &lease.id.to_string(), "alice").await.unwrap();
        assert!(matches!(broken, Break::Changed(Some(_))), "{make:?}");
        assert!(!backend.purge(&lease.name).await.unwrap(), "{make:?}");
        let names: Vec<_> = backend.list("").await.unwrap().locks.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [lease.name, mine.name], "{make:?}");
        assert_eq!(dump(), before, "{make:?}");
    }
}
