//! Fenced objects on moto's S3, which checks the conditions of a put as S3 documents them.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use onelock::{
    FencingToken,
    fencing::s3::{METADATA, Pointer, Put, Seen},
};
use test_support::moto::Moto;

const KEY: &str = "report";

struct Bucket(Moto);

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Bucket {
    fn start() -> Self {
        let bucket = Self(Moto::start());
        assert_eq!(bucket.request("PUT", "", &[], "").status, 200, "the bucket is created");
        bucket
    }

    fn request(&self, method: &str, key: &str, headers: &[(&str, String)], body: &str) -> Reply {
        let mut stream = TcpStream::connect(self.0.address()).unwrap();
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let (host, length) = (self.0.address(), body.len());
        let authorization =
            "AWS4-HMAC-SHA256 Credential=test/20261122/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        write!(
            stream,
            "{method} /reports/{key} HTTP/1.1\r\nHost: {host}\r\nAuthorization: \
             {authorization}\r\n{headers}Content-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        )
        .unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").expect("a reply");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Reply { status, head: head.into(), body: body.into() }
    }

    /// Returns the answer of `HeadObject` in the form that the helper takes.
    fn head(&self) -> Option<Seen> {
        let Reply { status: 200, head, .. } = self.request("HEAD", KEY, &[], "") else { return None };
        let header = |wanted: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_owned())
        };
        let token = header(METADATA).and_then(|token| FencingToken::new(token.parse().ok()?));
        Some(Seen { etag: header("ETag").expect("every object has an ETag"), token })
    }

    fn put(&self, key: &str, put: &Put, body: &str) -> u16 {
        self.request("PUT", key, &put.headers, body).status
    }
}

fn token(token: u64) -> FencingToken {
    FencingToken::new(token).unwrap()
}

#[test]
fn s3_refuses_a_late_pointer_and_keeps_all_objects() {
    let bucket = Bucket::start();
    let write = |holder: FencingToken, text: &str, seen: Option<&Seen>| {
        let pointer = Pointer::new(KEY, holder, 0);
        assert_eq!(
            bucket.put(&pointer.object, &Put::new_object(holder), text),
            200,
            "each holder writes to its own key"
        );
        bucket.put(KEY, &Put::over(seen, holder).unwrap(), &pointer.body())
    };
    assert_eq!(write(token(1), "of the first", bucket.head().as_ref()), 200);
    // Both holders read the same object. The first one is frozen, so the second one writes first.
    let seen = bucket.head();
    assert_eq!(seen.as_ref().and_then(|seen| seen.token), Some(token(1)));
    assert_eq!(write(token(2), "of the second", seen.as_ref()), 200);
    let late = Pointer::new(KEY, token(1), 1);
    assert_eq!(bucket.put(KEY, &Put::over(seen.as_ref(), token(1)).unwrap(), &late.body()), 412);
    assert_eq!(bucket.put(KEY, &Put::over(None, token(3)).unwrap(), "x"), 412, "the pointer already exists");
    assert_eq!(
        Put::over(bucket.head().as_ref(), token(1)).unwrap_err().seen,
        token(2),
        "a second read shows the newer token"
    );

    let current = Pointer::parse(&bucket.request("GET", KEY, &[], "").body).expect("a pointer");
    assert_eq!(current.token, token(2));
    assert_eq!(bucket.request("GET", &current.object, &[], "").body, "of the second");
    assert_eq!(bucket.put(&current.object, &Put::new_object(token(2)), "again"), 412, "an object is written once");
}

/// Shows why the body has to contain the token.
#[test]
fn an_etag_cannot_distinguish_holders_that_write_equal_bytes() {
    let bucket = Bucket::start();
    assert_eq!(bucket.put(KEY, &Put::over(None, token(1)).unwrap(), "same"), 200);
    let seen = bucket.head();
    assert_eq!(bucket.put(KEY, &Put::over(seen.as_ref(), token(2)).unwrap(), "same"), 200);
    assert_eq!(bucket.put(KEY, &Put::over(seen.as_ref(), token(1)).unwrap(), "late"), 200);
}
